"""What Schemathesis puts into the parts of a form: sounds and tables instead of arbitrary bytes.

For: `tools.fuzz.schema`, which has Schemathesis load this module by name (`SCHEMATHESIS_HOOKS`). The OpenAPI document
says `binary` of both files; nobody could guess a sound from that.
Does not know: what the service should answer.
"""

import os
from typing import Any

import schemathesis

from tools.fuzz.files import CONTENT, FILES, Content, file_for


def filter_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> bool:
    """Leave out what a form cannot carry, as the service is then sent something else, and rightly takes it.

    A form knows no types: a sentence that is a number or an object becomes words like any others. And a list is a part
    for each of its items, so that of one item it is that item, and of none it is nothing at all.
    """
    del context
    body: Any = case.body
    if not isinstance(body, dict):
        return True
    text = body.get("text", "")
    words = isinstance(text, str) or (isinstance(text, list) and len(text) > 1)
    return words and [] not in body.values()


def map_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> "schemathesis.Case[Any]":
    """Put files into a form's parts; a part that breaks the schema (a number, a list) stays what it is."""
    del context
    body: Any = case.body
    if isinstance(body, dict):
        content: Content = "damaged" if os.environ.get(CONTENT) == "damaged" else "good"
        for part in FILES:
            # Schemathesis carries bytes in a string of its own that has them as `data`.
            stand_in = getattr(body.get(part), "data", None)
            if isinstance(stand_in, bytes):
                body[part] = type(body[part])(file_for(part, stand_in, content))
    return case


schemathesis.hook(filter_case)
schemathesis.hook(map_case)
