"""What answers when a request is not even HTTP.

For: giving the one error that no application sees, uvicorn's own 400, the shape of every other.
Does not know: the application.
"""

import json
from typing import Final
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

DETAIL: Final = "The request is not well-formed HTTP, or its method is unknown."


class ProblemProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, whose refusal is `application/problem+json`."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what could not be parsed, and close. What uvicorn would say, `msg`, says less."""
        del msg
        request_id = uuid4().hex
        body = json.dumps(
            {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": DETAIL,
                "instance": "",
                "request_id": request_id,
                "errors": [],
            }
        )
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()
