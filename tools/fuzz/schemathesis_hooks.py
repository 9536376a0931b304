"""Hooks of Schemathesis: uploads for the parts that the OpenAPI document describes as `binary`.

`tools.fuzz.run_schemathesis` has Schemathesis load this module by name (`SCHEMATHESIS_HOOKS`).
"""

import base64
import os
from typing import Any

import schemathesis

from app.uploads.json_body import MAX_ID
from app.uploads.json_body import MEDIA_TYPE as JSON
from tools.fuzz.files import CONTENT, FILES, Content, file_for


def filter_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> bool:
    """Drop bodies that a form cannot represent: the service gets another body, and accepts it.

    A form has no types: a number or an object as text is sent as a string. A list is sent as a part for each of its
    items, so that a list of one item is that item, and an empty list is an absent part.
    """
    del context
    body: Any = case.body
    if not isinstance(body, dict) or case.media_type == JSON:
        return True
    text = body.get("text", "")
    is_text = isinstance(text, str) or (isinstance(text, list) and len(text) > 1)
    return is_text and [] not in body.values()


def map_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> "schemathesis.Case[Any]":
    """Replace the bytes of file parts by uploads; a part that violates the schema (a number, a list) is kept."""
    del context
    body: Any = case.body
    content: Content = "damaged" if os.environ.get(CONTENT) == "damaged" else "good"
    if isinstance(body, dict) and case.media_type == JSON:
        items = body.get("items")
        for number, item in enumerate(items if isinstance(items, list) else [body]):
            if isinstance(item, dict):
                _fill_json(item, number, content)
    elif isinstance(body, dict):
        for part in FILES:
            # Schemathesis wraps bytes in a string type of its own, with the bytes as `data`.
            placeholder = getattr(body.get(part), "data", None)
            if isinstance(placeholder, bytes):
                body[part] = type(body[part])(file_for(part, placeholder, content))
    return case


def _fill_json(item: dict[str, Any], number: int, content: Content) -> None:
    """Replace the files of an object by uploads in base64, and its id by one that no other item has."""
    for part in FILES:
        if isinstance(placeholder := item.get(part), str):
            file = file_for(part, placeholder.encode(errors="replace"), content)
            item[part] = base64.b64encode(file).decode()
    if isinstance(name := item.get("id"), str) and 0 < len(name) <= MAX_ID:
        item["id"] = f"{number} {name}"[:MAX_ID]


schemathesis.hook(filter_case)
schemathesis.hook(map_case)
