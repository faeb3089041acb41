"""Checks the documentation: links lead somewhere, Python blocks compile, nothing names a place of one machine.

``python tools/check_docs.py`` prints one line for each fault and exits with 1 if there is any.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOCAL_PATH = re.compile(r"(?<![\w.~$}])/(?:work|root|opt)/|\.\./shared\b")
ADDRESS = re.compile(r"\w+://")


def main() -> int:
    files = tracked_files()
    pages = [path for path in files if path.suffix == ".md"]
    faults = [
        *(fault for page in pages for fault in broken_links(page)),
        *(fault for page in pages for fault in broken_blocks(page)),
        *unlisted_pages(pages),
        *(fault for path in files for fault in local_paths(path)),
        *(fault for path in files if path.parent.name == "requirements" for fault in addresses(path)),
    ]
    for fault in faults:
        print(fault)
    print(f"docs: {len(pages)} pages, {len(files)} files, {len(faults)} faults")
    return 1 if faults else 0


def tracked_files() -> list[Path]:
    """Every file that is or could be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def broken_links(page: Path) -> Iterator[str]:
    prose = FENCE.sub("", page.read_text())
    for target in LINK.findall(prose):
        if not ADDRESS.match(target) and not link_resolves(page, target):
            yield f"{name(page)}: no such target: {target}"


def link_resolves(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not anchor:
        return file.exists()
    return file.is_file() and anchor in map(slug, HEADING.findall(FENCE.sub("", file.read_text())))


def slug(heading: str) -> str:
    """The anchor that a forge gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_blocks(page: Path) -> Iterator[str]:
    for language, code in FENCE.findall(page.read_text()):
        if language == "python" and (fault := syntax_fault(code)):
            yield f"{name(page)}: Python block does not compile: {fault}"


def syntax_fault(code: str) -> str | None:
    try:
        compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        return f"{error.msg}: {(error.text or '').strip()}"
    return None


def unlisted_pages(pages: list[Path]) -> Iterator[str]:
    """Pages under docs/ that its index does not name."""
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text()
    for page in pages:
        if docs in page.parents and page.name != "README.md" and str(page.relative_to(docs)) not in index:
            yield f"{name(page)}: not in docs/README.md"


def local_paths(path: Path) -> Iterator[str]:
    if path == Path(__file__).resolve():
        return
    for number, line in enumerate(text_lines(path), 1):
        if LOCAL_PATH.search(line):
            yield f"{name(path)}:{number}: names a place of one machine"


def addresses(path: Path) -> Iterator[str]:
    for number, line in enumerate(text_lines(path), 1):
        if ADDRESS.search(line):
            yield f"{name(path)}:{number}: a lock names an address"


def text_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
