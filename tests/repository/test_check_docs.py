"""The checker of the documentation finds what it is there to find."""

from pathlib import Path

import pytest

from tools import check_docs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check_docs, "ROOT", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_links_to_files_and_headings_that_exist_are_no_faults(root: Path) -> None:
    write(root / "other.md", "# Other\n\n## The log: `layout`\n")
    page = write(
        root / "page.md", "[a](other.md) [b](other.md#the-log-layout) [c](https://example.org) [d](#own)\n\n# Own\n"
    )
    assert list(check_docs.broken_links(page)) == []


@pytest.mark.parametrize("target", ["missing.md", "page.md#nowhere", "#nowhere"])
def test_a_link_that_leads_nowhere_is_named(root: Path, target: str) -> None:
    page = write(root / "page.md", f"# Page\n[x]({target})\n")
    assert list(check_docs.broken_links(page)) == [f"page.md: no such target: {target}"]


def test_a_link_inside_a_code_block_is_code(root: Path) -> None:
    page = write(root / "page.md", "```python\nhandlers[name](request)\n```\n")
    assert list(check_docs.broken_links(page)) == []


def test_a_python_block_may_await_but_must_compile(root: Path) -> None:
    good = write(root / "good.md", "```python\nawait client.request('system:health')\n```\n")
    bad = write(root / "bad.md", "```python\nasync def f(:\n```\n")
    assert list(check_docs.broken_blocks(good)) == []
    assert len(list(check_docs.broken_blocks(bad))) == 1


def test_a_page_that_the_index_does_not_name_is_a_fault(root: Path) -> None:
    write(root / "docs/README.md", "[why](why.md)")
    pages = [write(root / "docs/why.md", ""), write(root / "docs/lost.md", "")]
    assert list(check_docs.unlisted_pages(pages)) == ["docs/lost.md: not in docs/README.md"]


def test_a_place_of_one_machine_is_a_fault_and_a_relative_path_is_none(root: Path) -> None:
    bad = write(root / "bad.py", "HOME = '" + "/ro" + "ot/ksi'\n")
    good = write(root / "good.py", "HOME = 'var/work/ksi'\n")
    assert list(check_docs.local_paths(bad)) == ["bad.py:1: names a place of one machine"]
    assert list(check_docs.local_paths(good)) == []


def test_a_lock_that_names_an_address_is_a_fault(root: Path) -> None:
    lock = write(root / "requirements/dev.txt", "--index-url https://example.org/simple\nhttpx==1 --hash=sha256:00\n")
    assert list(check_docs.addresses(lock)) == ["requirements/dev.txt:1: a lock names an address"]
