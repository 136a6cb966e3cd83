"""A report page read back by an XML parser and by an HTML parser."""

import base64
import html.parser
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from offsites_jax.train.media import encode_image
from offsites_jax.train.page import MISSING, Paragraph, Picture, Section, Table, cell_text, render

EVIL = "<script>alert('x')</script>\"&amp; --> ]]> </style> \x00\x1b\udcff"
CLEAN = EVIL.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\udcff", "\ufffd")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
PNG = encode_image(PIXELS).content


def parsed(page):
    assert page.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(page.encode())


def everything():
    table = Table([{EVIL: EVIL, "n": 3}, {"other": EVIL}])
    return [Section(EVIL, [Paragraph(EVIL), table, Picture(PNG, EVIL)])] * 4


def test_whatever_is_put_in_comes_back_as_text_and_as_nothing_else():
    page = parsed(render(EVIL, everything(), banner=EVIL))
    body = page.find("body")
    assert page.findtext("head/title") == CLEAN
    assert body.findtext("p") == CLEAN
    assert body.findtext("main/h1") == CLEAN
    assert [link.text for link in body.iter("a")] == [CLEAN] * 4
    for section in body.iter("section"):
        assert section.findtext("h2") == CLEAN
        assert section.findtext("p") == CLEAN
        assert [cell.text for cell in section.iter("th")] == [CLEAN, "n", "other"]
        assert [cell.text for cell in section.iter("td")] == [CLEAN, "3", MISSING, MISSING, MISSING, CLEAN]
        assert section.findtext("figure/figcaption") == CLEAN
        assert section.find("figure/img").get("alt") == CLEAN


def test_an_html_parser_finds_the_same_elements_and_no_script():
    page = render(EVIL, everything(), banner=EVIL)
    found = []

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append(tag)
            assert not any(name.startswith("on") for name, _ in attrs)

    Tags().feed(page)
    assert found == [element.tag for element in parsed(page).iter()]
    assert "script" not in found


def test_nothing_is_fetched_and_the_browser_is_told_so():
    page = parsed(render("t", everything()))
    for element in page.iter():
        for name in ("src", "href"):
            assert element.get(name, "#").startswith(("data:image/png;base64,", "#"))
    policies = [meta.get("content") for meta in page.iter("meta") if meta.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in page.findtext("head/style")


def test_links_of_the_contents_lead_to_sections():
    sections = [Section(f"part {number}", []) for number in range(4)]
    page = parsed(render("t", sections))
    titles = {f"#{section.get('id')}": section.findtext("h2") for section in page.iter("section")}
    assert {link.get("href"): link.text for link in page.iter("a")} == titles
    assert len(titles) == 4
    assert not list(parsed(render("t", sections[:3])).iter("nav"))


def test_pictures_come_back_exactly_with_their_size():
    image = parsed(render("t", [Section("s", [Picture(PNG, "c")])])).find(".//img")
    data = base64.b64decode(image.get("src").removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS)
    assert (image.get("width"), image.get("height")) == ("7", "5")


def test_what_is_no_png_is_refused():
    with pytest.raises(ValueError, match="'roc' is not a PNG"):
        Picture(b"GIF89a", "roc")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, MISSING),
        ("", MISSING),
        (True, "yes"),
        (np.bool_(False), "no"),
        (12345, "12,345"),
        (0.95, "0.9500"),
        (0.0, "0.0000"),
        (12.3456, "12.35"),
        (-0.5, "-0.5000"),
        (123456.7, "123,457"),
        (1e-9, "1.000e-09"),
        (np.float32(0.25), "0.2500"),
        (float("nan"), "undefined"),
        (float("-inf"), "-∞"),
        (float("inf"), "∞"),
        ("0.5", "0.5"),
    ],
)
def test_cells_are_written_for_people(value, text):
    assert cell_text(value) == text


def test_numbers_stand_right_and_text_left():
    rows = [{"a": 1, "b": "x", "c": 0.5, "d": True}, {"a": None, "b": 2, "c": np.float64(1), "d": False}]
    page = parsed(render("t", [Section("s", [Table(rows)])]))
    assert [cell.get("class") for cell in page.iter("th")] == ["number", None, "number", None]


def test_empty_parts_still_make_a_page():
    page = parsed(render("t", [Section("s", [Table([]), Paragraph("")])]))
    assert page.findtext(".//section/p") == "No rows."
    assert page.find("body/p") is None
