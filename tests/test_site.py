"""The site: it builds without a warning, its links lead somewhere, and everyone can read it."""

import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
EQUATIONS = "docs/api/equations"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
AXE = Path(os.environ.get("AXE_MODULES", ROOT / "docs")) / "node_modules"

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What of a page is checked."""

    def __init__(self, path):
        super().__init__()
        self.path, self.lang, self.depth = path, "", 0
        self.ids, self.links, self.fetched, self.headings, self.without_alt = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.lang = found.get("lang", "") if tag == "html" else self.lang
        self.depth += tag == "article"
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.fetched.append(found["src"])
        if tag == "link" and "stylesheet" in found.get("rel", ""):
            self.fetched.append(found["href"])
        if tag == "img" and not (found.get("alt") or "").strip():
            self.without_alt.append(found["src"][:80])
        if self.depth and tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        self.depth -= tag == "article"


@pytest.fixture(scope="module")
def site(tmp_path_factory, warm_client):
    """The built site's folder."""
    out = tmp_path_factory.mktemp("site")
    command = [*warm_client, "-m", "sphinx", "-W", "-q", "-b", "html", "-c", "docs"]
    done = subprocess.run(
        [*command, "-d", str(out / "doctrees"), ".", str(out / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    """{its name: what is checked} of each page that has an article."""
    found = {str(p.relative_to(site).with_suffix("").as_posix()): Page(p) for p in site.rglob("*.html")}
    return {name: page for name, page in found.items() if not name.startswith("_static/")}


def articles(pages):
    """Return the pages with a text, not the index of names, the search or the way in."""
    return {
        name: page
        for name, page in pages.items()
        if name not in ("index", "genindex", "py-modindex", "search")
    }


def test_every_chapter_and_page_is_there(pages):
    texts = ["docs/index", "docs/own_model", EQUATIONS, "README", "data/README", "data/results/README"]
    library = ["minigslora/README", "minigslora/methods/README", "data/results/baselines", "data/mini-faces"]
    assert set(pages) >= {*CHAPTERS, *texts, *library, "index", "search"}


def test_links_within_the_site_lead_somewhere(site, pages):
    names = {page.path.resolve(): page for page in pages.values()}
    lost = []
    for name, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path.resolve()
            there = target.exists() and (
                not parts.fragment or target not in names or unquote(parts.fragment) in names[target].ids
            )
            lost += [] if there else [f"{name}: {link}"]
    assert not lost


def test_nothing_is_fetched_from_a_network(pages):
    far = {
        link for page in pages.values() for link in page.fetched if urlsplit(link).scheme in ("http", "https")
    }
    assert not far


def test_pages_have_a_language_alternative_texts_and_headings_in_order(pages):
    for name, page in articles(pages).items():
        assert page.lang == "en", name
        assert not page.without_alt, name
        assert page.headings[:1] == [1], name
        assert page.headings.count(1) == 1, name
        deeper = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
        assert max(deeper, default=0) <= 1, name


def test_chapters_can_be_opened_in_colab_and_downloaded(pages):
    for name in CHAPTERS:
        links = pages[name].links
        assert any(
            link.startswith("https://colab.") and link.endswith(f"/main/{name}.ipynb") for link in links
        )
        assert any(link.endswith(f"_sources/{name}.ipynb") for link in links)


def test_equations_and_the_library_are_linked_both_ways(pages):
    chapter = pages["notebooks/03_group_sparsity"]
    assert "equation-3-2" in chapter.ids
    assert "../../notebooks/03_group_sparsity.html#equation-3-2" in pages[EQUATIONS].links
    assert f"../{EQUATIONS}.html#minigslora.sparsity.ProximalStep" in chapter.links


def test_axe_finds_no_violation(site, pages):
    """Where node, Chromium and the npm packages axe-core and playwright-core are; light and dark."""
    if not (shutil.which("node") and Path(CHROMIUM).exists() and (AXE / "axe-core").is_dir()):
        pytest.skip("needs node, Chromium, and docs/node_modules: see docs/axe.mjs")
    command = [
        "node",
        str(ROOT / "docs" / "axe.mjs"),
        str(site),
        *sorted(articles(pages)),
        "search",
        "genindex",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AXE_MODULES": str(AXE.parent), "CHROMIUM": CHROMIUM},
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == []
