"""Text format of a table: its encoding, the separator of its cells, and what a file is that is no OpenFace 2 table.

Own code: `csv.Sniffer` guesses from letter frequencies, and names neither encodings nor other tools.
"""

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

SEPARATORS: Final = (b",", b";", b"\t")
UTF8_MARK: Final = codecs.BOM_UTF8
_BYTE_ORDER_MARKS: Final = (  # that of UTF-32 in little-endian order begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SIGNATURES: Final[Mapping[bytes, str]] = {
    b"<": "HTML or XML",
    b"{": "JSON",
    b"[": "JSON",
    b"PK\x03\x04": "a ZIP file, such as an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
    b"#INFO": "an iMotions export, which `emmr convert-aus` converts",
    b"#METADATA": "an iMotions export, which `emmr convert-aus` converts",
}
_TOOLS: Final[Mapping[str, str]] = {  # a column that only this tool writes, in lower case
    # OpenFace 2 has no action units 3 and 8. Wrappers of OpenFace 3 number its eight action units from 1 to 8.
    "au03_r": "an OpenFace 3 wrapper",
    "au08_r": "an OpenFace 3 wrapper",
    "facerectx": "Py-Feat",
    "facescore": "Py-Feat",
    "au_1_intensity": "LibreFace",
    "facial_expression": "LibreFace",
    "browdownleft": "MediaPipe or ARKit",
    "mouthsmileleft": "MediaPipe or ARKit",
    "brow furrow": "AFFDEX",
    "browfurrow": "AFFDEX",
    "au1 evidence": "FACET",
    "video time": "FaceReader",
}
_REMEDIES: Final[Mapping[str, str]] = {
    "an OpenFace 3 wrapper": "its columns are numbered from 1 to 8 and not by action unit, and cannot be converted",
    **dict.fromkeys(("Py-Feat", "LibreFace", "AFFDEX", "FACET"), "`emmr convert-aus` converts it"),
}
CONVERTED: Final[Mapping[str, str]] = {
    "converted_from_py_feat": "Py-Feat",
    "converted_from_libreface": "LibreFace",
    "converted_from_affdex": "AFFDEX",
    "converted_from_facet": "FACET",
}
"""Column that marks a table of converted action units → the tool that measured them."""
_TO_COMMAS: Final = {  # in files with other separators, commas are decimal marks
    separator: bytes.maketrans(separator + b",", b",.") for separator in SEPARATORS[1:]
}
_NUMBER: Final = re.compile(r"[-+\d.eE]+")


def encoding_of(head: bytes) -> str | None:
    """Return `UTF-16` or `UTF-32` where the first bytes of a file are its byte order mark, else None."""
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def separator_of(header: bytes, known: Collection[str]) -> bytes:
    """Return the separator that finds the most known names in a header, a comma where all find as many."""
    if not any(separator in header for separator in SEPARATORS[1:]):
        return SEPARATORS[0]
    return max(SEPARATORS, key=lambda separator: sum(name in known for name in column_names(header, separator)))


def column_names(header: bytes, separator: bytes) -> list[str]:
    """Split a header into names without surrounding spaces and quotes.

    Latin-1 maps every byte to a character, so that a name nobody needs may be in any encoding.
    """
    return [name.strip(' \t"\r') for name in header.decode("latin-1").split(separator.decode())]


def comma_separated(row: bytes, separator: bytes) -> bytes:
    """Return a row of a file with another separator with commas between cells and points as decimal marks."""
    return row.translate(_TO_COMMAS[separator])


def unquoted(row: bytes) -> bytes:
    """Return a row without its quotes if every cell is quoted, otherwise the row as it is."""
    if not row.startswith(b'"'):
        return row
    commas = row.count(b",")
    quoted = row.endswith(b'"') and row.count(b'","') == commas and row.count(b'"') == 2 * commas + 2
    return row.replace(b'"', b"") if quoted else row


def foreign_content(head: bytes) -> str | None:
    """Return what is wrong with a file as a whole, from its first bytes; None where they may begin a table."""
    if not head.strip():
        return "the file, or its first line, is empty"
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.lstrip().startswith(signature)), None)
    if kind is None and b"\0" in head:
        kind = "binary, or in UTF-16 without a byte order mark"
    return None if kind is None else f"the file is {kind}; an OpenFace 2 CSV is needed"


def foreign_table(names: Sequence[str]) -> str | None:
    """Return what is wrong with a table as a whole, from the names of its columns; None where nothing is known."""
    lowered = {name.lower() for name in names}
    if (tool := next((tool for column, tool in _TOOLS.items() if column in lowered), None)) is not None:
        return "; ".join(filter(None, (f"this is a table of {tool}, not of OpenFace 2", _REMEDIES.get(tool))))
    if all(map(_NUMBER.fullmatch, names)):
        return "the first line holds numbers instead of the names of the columns"
    if len(names) == 1 and re.search(r"\bAU\d\d_[rc]\b", names[0]):
        return "no comma, semicolon or tab separates the columns"
    return None
