"""Checks the built documentation: `python scripts/check_site.py docs/_build/html`.

It checks that pages load nothing from other sites, that links between pages lead to a
page and an anchor that exist, and that links to other sites are well-formed https
addresses. These are not visited, so the check needs no network.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Tags whose address the browser loads by itself; a reader follows the others.
LOADED = {
    "audio",
    "embed",
    "iframe",
    "img",
    "input",
    "object",
    "script",
    "source",
    "track",
    "video",
}
FOLLOWED_RELATIONS = {"author", "canonical", "index", "next", "prev", "search"}
STYLE_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?(?:https?:)?//[^"')\s]+""")


class Page(HTMLParser):
    """The anchors of a page, the addresses that it loads, and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add the addresses of a tag to the loaded or to the linked ones."""
        given = {name: value for name, value in attrs if value}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        relations = set(given.get("rel", "").split())
        is_loaded = tag in LOADED or (
            tag == "link" and not relations & FOLLOWED_RELATIONS
        )
        for name in ("src", "href", "data", "poster"):
            if name in given:
                (self.loads if is_loaded else self.links).append(given[name])


def find_faults(root: Path) -> list[str]:
    """Return one line for each fault of the site under `root`."""
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.html"))
    }
    faults = [] if pages else [f"{root}: no pages: build them first, `make docs`"]
    for path, page in pages.items():
        name = path.relative_to(root.resolve())
        for address in page.loads:
            if urlsplit(address).netloc:
                faults.append(f"{name}: loads {address} from another site")
        for address in page.loads + page.links:
            if fault := find_fault(address, path, pages):
                faults.append(f"{name}: {address}: {fault}")
    for path in sorted(root.rglob("*.css")):
        for match in STYLE_URL.finditer(path.read_text(encoding="utf-8")):
            faults.append(f"{path.relative_to(root)}: loads {match[0]}")
    return faults


def find_fault(address: str, path: Path, pages: dict[Path, Page]) -> str | None:
    """Return the fault of an address in the page at `path`, or `None`."""
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto"):
        return None
    if parts.scheme or parts.netloc:
        is_good = parts.scheme == "https" and "." in parts.netloc and " " not in address
        return None if is_good else "not a well-formed https address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "no such anchor"
    return None


def main() -> None:
    """Print the faults and exit with 1 if there are any."""
    faults = find_faults(Path(sys.argv[1]))
    print(
        "\n".join(faults) or "links are good, and the pages load nothing from outside"
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
