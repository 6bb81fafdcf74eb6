"""Content that is more than text: data URLs, images, PDFs, text files, JSON schemas. Checked before the CLI sees them.

In: what clients send. Out: blocks. The CLI turns a broken image into a remark and a wrong block into silence, so that
everything is refused here, with the path of the part.
"""

import base64
import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

from ..core.conversation import Base64Source, Document, Image, TextSource, UrlSource
from ..core.errors import BadRequest

LARGEST_IMAGE_BYTES = 5 * 1024 * 1024
LARGEST_PDF_BYTES = 24 * 1024 * 1024

_MAGIC = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/x-yaml", "application/yaml")


def parse_image_url(url: str, path: str) -> Image:
    """A data URL of png, jpeg, gif or webp, or an http(s) URL, which the API fetches; the proxy never does."""
    if url.lower().startswith(("http://", "https://")):
        return Image(UrlSource(url))
    media_type, data = parse_data_url(url, path)
    return build_image(media_type, base64.b64encode(data).decode(), path)


def build_image(media_type: str, data: str, path: str) -> Image:
    """An image from its base64 text. Raises BadRequest for another type, broken data, or too much of it."""
    kind = "image/jpeg" if media_type == "image/jpg" else media_type
    if kind not in _MAGIC:
        raise BadRequest(
            f"Images of type {media_type[:40]!r} are not supported: png, jpeg, gif and webp are", param=path
        )
    raw = decode_base64(data, path)
    if not raw.startswith(_MAGIC[kind]) or (kind == "image/webp" and raw[8:12] != b"WEBP"):
        raise BadRequest(f"The data is not of the type {kind}", param=path)
    if len(raw) > LARGEST_IMAGE_BYTES:
        raise BadRequest(f"The image is larger than {LARGEST_IMAGE_BYTES >> 20} MB", param=path)
    return Image(Base64Source(kind, data))


def parse_file(data_url: str, filename: str | None, path: str) -> Document:
    """A PDF or a text file from its data URL."""
    media_type, raw = parse_data_url(data_url, path)
    return build_document(media_type, raw, filename, path)


def build_document(media_type: str, raw: bytes, title: str | None, path: str) -> Document:
    """A document from its bytes. Raises BadRequest for what is neither a PDF nor text."""
    if media_type == "application/pdf":
        if not raw.startswith(b"%PDF"):
            raise BadRequest("The data is not a PDF", param=path)
        if len(raw) > LARGEST_PDF_BYTES:
            raise BadRequest(f"The PDF is larger than {LARGEST_PDF_BYTES >> 20} MB", param=path)
        return Document(Base64Source(media_type, base64.b64encode(raw).decode()), title or None)
    if not media_type.startswith(_TEXT_TYPES):
        raise BadRequest(f"Files of type {media_type[:60]!r} are not supported: PDF and text are", param=path)
    try:
        return Document(TextSource(raw.decode("utf-8")), title or None)
    except UnicodeDecodeError as error:
        raise BadRequest("The text file is not UTF-8", param=path) from error


def parse_data_url(url: str, path: str) -> tuple[str, bytes]:
    """Media type (without parameters) and bytes of a `data:` URL. Raises BadRequest for any other URL."""
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise BadRequest("Only data: URLs (and http(s) URLs for images) are read", param=path)
    media_type, *attributes = head[5:].split(";")
    if "base64" in (attribute.strip().lower() for attribute in attributes):
        return media_type.strip().lower() or "text/plain", decode_base64(data, path)
    return media_type.strip().lower() or "text/plain", unquote_to_bytes(data)


def decode_base64(data: str, path: str) -> bytes:
    """Strict base64. Raises BadRequest."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("The data is not valid base64", param=path) from error
    if not raw:
        raise BadRequest("The data is empty", param=path)
    return raw


def parse_schema(schema: Any, path: str) -> dict[str, Any]:
    """A JSON schema for a tool's arguments: of type object, said or implied. Raises BadRequest."""
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise BadRequest("A JSON schema must be an object", param=path)
    if schema.get("type", "object") != "object":
        raise BadRequest("The schema of a function's arguments must be of type object", param=f"{path}.type")
    return {"type": "object", **schema}
