"""Data URLs, images, documents, schemas: taken, or refused with the path of the part."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from claude_proxy.core.conversation import Base64Source, Document, Image, TextSource, UrlSource
from claude_proxy.core.errors import BadRequest
from claude_proxy.dialects import content
from claude_proxy.dialects.content import (
    build_document,
    build_image,
    decode_base64,
    parse_data_url,
    parse_file,
    parse_image_url,
    parse_schema,
)

GIF = b"GIF87a gif"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("data:text/plain;base64,eA==", ("text/plain", b"x")),
        ("data:;base64,eA==", ("text/plain", b"x")),
        ("data:,a%20b", ("text/plain", b"a b")),
        ("DATA:Text/HTML;charset=utf-8; BASE64 ,eA==", ("text/html", b"x")),
        ("data:text/plain,", ("text/plain", b"")),
    ],
)
def test_a_data_url_has_a_type_and_bytes(url: str, wanted: tuple[str, bytes]) -> None:
    """Parameters are dropped."""
    assert parse_data_url(url, "p") == wanted


@pytest.mark.parametrize("url", ["", "x", "http://x", "data:text/plain", "file:///x", "data;base64,eA=="])
def test_any_other_url_is_refused(url: str) -> None:
    """Nothing is fetched, and no file opened."""
    with pytest.raises(BadRequest) as raised:
        parse_data_url(url, "p")
    assert raised.value.param == "p"


@pytest.mark.parametrize("data", ["", "@@", "eA", "eA==\n", "é", "eA==eA=="])
def test_base64_is_strict(data: str) -> None:
    """And never empty."""
    with pytest.raises(BadRequest):
        decode_base64(data, "p")


def test_images_are_checked_by_their_bytes() -> None:
    """The type must be one of the four, and true."""
    assert build_image("image/gif", b64(GIF), "p") == Image(Base64Source("image/gif", b64(GIF)))
    assert parse_image_url("HTTPS://x/a.png", "p") == Image(UrlSource("HTTPS://x/a.png"))
    for media_type, data in (("image/svg+xml", GIF), ("image/png", GIF), ("image/webp", b"RIFF1234WAVE"), ("", GIF)):
        with pytest.raises(BadRequest):
            build_image(media_type, b64(data), "p")


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and PDFs have limits at the API."""
    monkeypatch.setattr(content, "LARGEST_IMAGE_BYTES", len(GIF))
    monkeypatch.setattr(content, "LARGEST_PDF_BYTES", 5)
    assert build_image("image/gif", b64(GIF), "p")
    for build in (
        lambda: build_image("image/gif", b64(GIF + b"!"), "p"),
        lambda: build_document("application/pdf", b"%PDF-1", None, "p"),
    ):
        with pytest.raises(BadRequest, match="larger"):
            build()


def test_documents_are_pdfs_or_text() -> None:
    """With a title where there is one."""
    pdf = Document(Base64Source("application/pdf", b64(b"%PDF")), "a.pdf")
    assert parse_file(f"data:application/pdf;base64,{b64(b'%PDF')}", "a.pdf", "p") == pdf
    for media_type in ("text/markdown", "application/json", "application/x-yaml"):
        assert build_document(media_type, "é".encode(), "", "p") == Document(TextSource("é"))


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_document("application/pdf", b"no", None, "p"),
        lambda: build_document("text/plain", b"\xff", None, "p"),
        lambda: build_document("application/zip", b"PK", None, "p"),
    ],
)
def test_other_documents_are_refused(build: Callable[[], Any]) -> None:
    """With the path."""
    with pytest.raises(BadRequest) as raised:
        build()
    assert raised.value.param == "p"


def test_a_schema_of_arguments_is_of_type_object() -> None:
    """Said or implied."""
    assert parse_schema(None, "p") == {"type": "object", "properties": {}}
    assert parse_schema({}, "p") == {"type": "object"}
    assert parse_schema({"type": "object", "x": 1}, "p") == {"type": "object", "x": 1}
    for schema, path in (([], "p"), ("x", "p"), ({"type": "array"}, "p.type"), ({"type": None}, "p.type")):
        with pytest.raises(BadRequest) as raised:
            parse_schema(schema, "p")
        assert raised.value.param == path
