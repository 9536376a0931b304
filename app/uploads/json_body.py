"""Reading JSON bodies within limits: the parts of `POST /predict`, and the items of `POST /predict/batch`."""

import binascii
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from app import errors
from app.settings import Settings
from app.uploads.body import Body, receive, require_utf8
from app.uploads.form import (
    PART_NAMES,
    PartName,
    RawForm,
    close_file,
    openface_too_large,
    part_name,
    text_too_long,
)
from app.uploads.json_reader import JsonReader, unescape
from app.uploads.spool import SpooledFile, Uploads
from model.features.visual.table import MAX_MAGNITUDE

MEDIA_TYPE: Final = "application/json"
MAX_ID: Final = 128  # characters of an item's id
MAX_FACE_ID: Final = int(MAX_MAGNITUDE)
ESCAPED: Final = 6  # length of one escaped character, `\u0061`

_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]")


@dataclass(slots=True)
class Item:
    """One item of a batch.

    Args:
        id: of the client's choice.
        form: the parts; closed when the batch is.
        error: why a part's content is not accepted, None if it was read.
        face_id: the face of the OpenFace file to follow; None for the most confident one.
    """

    id: str = ""
    form: RawForm = field(default_factory=RawForm)
    error: errors.UploadError | None = None
    face_id: int | None = None


def is_json(request: Request) -> bool:
    """Whether the Content-Type of a request is JSON."""
    kinds = request.headers.getlist("content-type")
    return len(kinds) == 1 and parse_options_header(kinds[0])[0] == MEDIA_TYPE.encode()


@asynccontextmanager
async def read_json(request: Request, settings: Settings, uploads: Uploads | None = None) -> AsyncIterator[RawForm]:
    """Read an object with any of `text`, base64 `audio` and base64 `openface`; null stands for a part not sent.

    Arguments, limits and errors are those of `app.uploads.form.read_form`; the place of an error is a JSON pointer.
    """
    form = RawForm()
    uploads = uploads or Uploads(settings)

    async def read(body: Body) -> None:
        require_utf8(body)
        reader = JsonReader(body.chunks)
        parts = _Parts(form, settings, uploads, _Memory(settings))
        await reader.begin(b"{", "an object", "")
        async for name in reader.members(""):
            await parts.read(name, reader, "")
        await reader.end()
        if not parts.sent:
            raise errors.EmptyForm("the object holds no part")
        if parts.error is not None:
            raise parts.error

    try:
        await receive(request, settings, uploads, read)
        yield form
    finally:
        form.close()


@asynccontextmanager
async def read_items(request: Request, settings: Settings, uploads: Uploads) -> AsyncIterator[Sequence[Item]]:
    """Read `{"items": [{"id": …, "text": …, "audio": …, "openface": …, "face_id": …}, …]}`.

    An item whose content is not accepted has an `error`, and the others are read on. The files of all items together
    take as much memory as those of one form.

    Args:
        request: whose body has not been read.
        settings: the limits.
        uploads: of the application.

    Raises:
        TooManyUploads: as many bodies are arriving from this address as may.
        TooManyItems: more than `batch_max_items`.
        UnexpectedJson, DuplicatePart, UnknownPart: not of the form above, or an id that is given twice.
        UploadError: any other error of a body as a whole.
    """
    items: list[Item] = []

    async def read(body: Body) -> None:
        require_utf8(body)
        if body.kind != MEDIA_TYPE.encode():
            raise errors.UnsupportedContentType(f"a batch must be sent as {MEDIA_TYPE}")
        await _read_batch(JsonReader(body.chunks), items, settings, uploads)

    try:
        await receive(request, settings, uploads, read)
        yield items
    finally:
        for item in items:
            item.form.close()


async def _read_batch(reader: JsonReader, items: list[Item], settings: Settings, uploads: Uploads) -> None:
    memory, ids, found = _Memory(settings), set[str](), False
    await reader.begin(b"{", "an object", "")
    async for name in reader.members(""):
        if name != "items":
            raise errors.UnexpectedJson("only the member items is accepted")
        if found:
            raise errors.UnexpectedJson("the member may be given only once", place="/items")
        found = True
        await reader.begin(b"[", "an array", "/items")
        async for position in reader.elements():
            pointer = f"/items/{position}"
            if position >= settings.batch_max_items:
                raise errors.TooManyItems(f"a batch may hold at most {settings.batch_max_items} items", place=pointer)
            items.append(Item())
            await _read_item(reader, items[-1], _Parts(items[-1].form, settings, uploads, memory), pointer)
            if items[-1].id in ids:
                raise errors.UnexpectedJson("the id of an item before", place=f"{pointer}/id")
            ids.add(items[-1].id)
    await reader.end()
    if not items:
        raise errors.EmptyForm("the batch holds no items", place="/items")


async def _read_item(reader: JsonReader, item: Item, parts: "_Parts", pointer: str) -> None:
    await reader.begin(b"{", "an object", pointer)
    faces = 0
    async for name in reader.members(pointer):
        place = f"{pointer}/{name}"
        if name not in ("id", "face_id"):
            await parts.read(name, reader, pointer)
            continue
        if (item.id, faces)[name == "face_id"]:
            raise errors.UnexpectedJson("the member may be given only once", place=place)
        if name == "face_id":
            faces += 1
            item.face_id = await reader.whole_number(MAX_FACE_ID, place)
            continue
        await reader.begin(b'"', "a string", place)
        item.id = await reader.whole(ESCAPED * MAX_ID, place)
        if not 0 < len(item.id) <= MAX_ID:
            raise errors.UnexpectedJson(f"an id has 1 to {MAX_ID} characters", place=place)
    if not item.id:
        raise errors.UnexpectedJson("an item must have an id", place=pointer)
    item.error = parts.error
    if not parts.sent:
        item.error = errors.EmptyForm("the item holds no part", place=pointer)
    elif item.face_id is not None and item.form.openface is None:
        detail = "face_id chooses a face of openface, which the item does not have"
        item.error = item.error or errors.UnexpectedJson(detail, part="openface", place=f"{pointer}/face_id")


class _Memory:
    """The memory that the files of one body may take together: as much as the two files of a form."""

    def __init__(self, settings: Settings) -> None:
        self._each, self._left = settings.spool_bytes, 2 * settings.spool_bytes

    def file(self, uploads: Uploads) -> SpooledFile:
        """Return a new file."""
        # 0 would mean that the file is never on disk.
        return SpooledFile(max(1, min(self._each, self._left)), uploads)

    def count(self, size: int) -> None:
        """Count a complete file."""
        if size <= min(self._each, self._left):
            self._left -= size


class _Parts:
    """Reads the parts of one object into a form."""

    def __init__(self, form: RawForm, settings: Settings, uploads: Uploads, memory: _Memory) -> None:
        self._form, self._settings, self._uploads, self._memory = form, settings, uploads, memory
        self._names: set[str] = set()
        self.sent = False
        """Whether any part is not null."""
        self.error: errors.UploadError | None = None
        """Why the content of a part is not accepted; the rest of that part was skipped."""

    async def read(self, name: str, reader: JsonReader, pointer: str) -> None:
        """Read the value of a member.

        Raises:
            UploadError: the name or the type of the value is not accepted.
        """
        part, place = part_name(name), f"{pointer}/{name}"
        if part is None:
            accepted = ", ".join(("id", *PART_NAMES, "face_id") if pointer else PART_NAMES)
            raise errors.UnknownPart(f"only the members {accepted} are accepted", place=pointer or None)
        if name in self._names:
            raise errors.DuplicatePart("the part may be given only once", part=part, place=place)
        self._names.add(name)
        if not await reader.begin(b'"', "a string or null", place, part, nullable=True):
            return
        self.sent = True
        pieces = reader.string()
        try:
            if part == "text":
                self._form.text = await self._text(pieces, place)
            else:
                await self._file(pieces, part, place)
        except errors.UploadError as error:
            if not isinstance(error, errors.PartTooLarge | errors.CorruptPart):
                raise
            self.error = self.error or error
            async for _ in pieces:
                pass

    async def _text(self, pieces: AsyncIterator[bytes], place: str) -> bytes:
        written = bytearray()
        async for piece in pieces:
            written += piece
            if len(written) > ESCAPED * self._settings.max_text_bytes:
                raise text_too_long(self._settings)
        try:
            text = unescape(written).encode()
        except UnicodeDecodeError:
            raise errors.CorruptPart("the text is not UTF-8", part="text", place=place) from None
        except UnicodeEncodeError:
            detail = "the text holds half of a surrogate pair, which is no character"
            raise errors.CorruptPart(detail, part="text", place=place) from None
        if len(text) > self._settings.max_text_bytes:
            raise text_too_long(self._settings)
        return text

    async def _file(self, pieces: AsyncIterator[bytes], part: PartName, place: str) -> None:
        file, decoder = self._memory.file(self._uploads), _Base64(part, place)
        setattr(self._form, part, file)
        most = self._settings.max_openface_bytes if part == "openface" else self._settings.max_body_bytes
        try:
            async for piece in pieces:
                await file.append(decoder.add(piece))
                if file.tell() > most:
                    raise openface_too_large(self._settings)
            decoder.end()
        except errors.UploadError:
            close_file(file)
            raise
        self._memory.count(file.tell())
        file.seek(0)


class _Base64:
    """Decodes base64 (RFC 4648, section 4: padded, without line breaks) that arrives in pieces."""

    def __init__(self, part: PartName, place: str) -> None:
        self._part, self._place = part, place
        self._rest = ""  # fewer than 4 characters
        self._decoded = 0  # characters
        self._padded = False

    def add(self, piece: bytes) -> bytes:
        """Return the bytes that are complete with this piece of a JSON string.

        Raises:
            CorruptPart: not base64.
        """
        text = piece.decode("latin-1")
        try:
            if b"\\" in piece:  # writers escape some characters of base64 too: `\/`, `\u002B`, `\u003d`
                text = unescape(piece)
            text = self._rest + text
            whole = len(text) - len(text) % 4
            content = binascii.a2b_base64(text[:whole], strict_mode=True) if whole else b""
        except ValueError:  # binascii.Error, UnicodeDecodeError, or a character outside ASCII
            raise self._error(text) from None
        if whole and self._padded:
            raise self._error(text)
        self._padded = text.endswith("=", 0, whole) or self._padded
        self._rest, self._decoded = text[whole:], self._decoded + whole
        return content

    def end(self) -> None:
        """Check that the content is complete.

        Raises:
            CorruptPart: it is not.
        """
        if self._rest:
            raise self._error(self._rest)

    def _error(self, text: str) -> errors.CorruptPart:
        found = _NOT_BASE64.search(text)
        where = "" if found is None else f", character {self._decoded + found.start()}"
        detail = f"the {self._part} is not base64 with padding and without line breaks"
        return errors.CorruptPart(detail, part=self._part, place=f"{self._place}{where}")
