"""Hooks of Schemathesis: uploads for the parts that the OpenAPI document describes as `binary`.

`tools.fuzz.run_schemathesis` has Schemathesis load this module by name (`SCHEMATHESIS_HOOKS`).
"""

import os
from typing import Any

import schemathesis

from tools.fuzz.files import CONTENT, FILES, Content, file_for


def filter_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> bool:
    """Drop bodies that a form cannot represent: the service gets another body, and accepts it.

    A form has no types: a number or an object as text is sent as a string. A list is sent as a part for each of its
    items, so that a list of one item is that item, and an empty list is an absent part.
    """
    del context
    body: Any = case.body
    if not isinstance(body, dict):
        return True
    text = body.get("text", "")
    is_text = isinstance(text, str) or (isinstance(text, list) and len(text) > 1)
    return is_text and [] not in body.values()


def map_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> "schemathesis.Case[Any]":
    """Replace the bytes of file parts by uploads; a part that violates the schema (a number, a list) is kept."""
    del context
    body: Any = case.body
    if isinstance(body, dict):
        content: Content = "damaged" if os.environ.get(CONTENT) == "damaged" else "good"
        for part in FILES:
            # Schemathesis wraps bytes in a string type of its own, with the bytes as `data`.
            placeholder = getattr(body.get(part), "data", None)
            if isinstance(placeholder, bytes):
                body[part] = type(body[part])(file_for(part, placeholder, content))
    return case


schemathesis.hook(filter_case)
schemathesis.hook(map_case)
