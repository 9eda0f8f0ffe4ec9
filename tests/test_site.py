"""The built book in a real browser, from the disk and without a network.

`make site` builds the book and runs this. Every page is opened at the width of a desk and of a
phone; `look` collects what is wrong with it, and one test per kind of fault reads that list.
"""

import os
import shutil
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import pytest

from blurlib.diffusion.schedule import BlurSchedule
from experiments import report

pytestmark = pytest.mark.site

SITE = Path(os.environ.get("BLURLIB_SITE", Path(__file__).parents[1] / "_build" / "html"))
DESK, PHONE = 1400, 390
RULES = ["wcag2a", "wcag2aa", "best-practice"]
SAMPLE = ("book/intro", "book/play", "book/glossary", "book/api_codec", "notebooks/00_quickstart")
PLAYED = {"book/intro": ["compare"], "book/play": ["diffuse", "laplacian", "passes", "curves"]}

# What the page itself knows of its faults: kind and place of each.
INSPECT = r"""(width) => {
  const faults = [];
  const name = (e) => (e.id ? "#" + e.id : e.outerHTML.slice(0, 80).replace(/\s+/g, " "));
  const article = document.querySelector("article") || document.body;
  for (const math of document.querySelectorAll(".math:not(:has(.katex-html))"))
    faults.push(["formula", name(math)]);
  for (const bad of document.querySelectorAll(".katex-error")) faults.push(["formula", name(bad)]);
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); )
    if (
      !node.parentElement.closest("pre, code, script, style, annotation, .citation") &&
      /\$[^$\n]*[\\^_{][^$\n]*\$|\\[([]|\\(frac|hat|mathrm|alpha|sigma|begin)\b/.test(node.data)
    )
      faults.push(["formula", node.data.trim().slice(0, 80)]);
  for (const image of document.images) {
    const alt = image.getAttribute("alt");
    if (alt === null || (alt === "" && !image.closest("[aria-hidden=true]")))
      faults.push(["alt text", image.src.slice(-60)]);
    else if (/\.(png|svg|jpe?g|webp)$|^_images/.test(alt)) faults.push(["alt text", alt]);
    if (image.complete && !image.naturalWidth) faults.push(["picture", image.src.slice(-60)]);
  }
  // A phone's innerWidth grows with the page, so the width is told.
  const wide = document.documentElement.scrollWidth > width;
  const scrolls = (e) => getComputedStyle(e).overflowX !== "visible";
  const boxed = (e) => e && e !== article && (scrolls(e) || boxed(e.parentElement));
  if (wide)
    for (const e of article.querySelectorAll("*"))
      if (e.getBoundingClientRect().right > width + 1 && !e.childElementCount && !boxed(e))
        faults.push(["width", name(e)]);
  const links = [...document.querySelectorAll("a[href]")].map((a) => a.href);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return { faults, links, ids, wide };
}"""


def pages(site):
    """Every page that a reader reaches, without the copies of templates in _static."""
    found = sorted(site.rglob("*.html"))
    return [page for page in found if "_static" not in page.parts and page.name != "index.html"]


@pytest.fixture(scope="module")
def browser():
    if not pages(SITE):
        pytest.skip(f"no built book in {SITE}: `make book` builds it")
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    of_the_system = next(filter(None, map(shutil.which, names)), None)  # None: Playwright's own
    with playwright.sync_playwright() as running:
        try:
            browser = running.chromium.launch(executable_path=of_the_system)
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}; install chromium")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


class Watched:
    """A tab without a network that keeps what goes wrong in it: pairs of a kind and a place."""

    def __init__(self, browser, width, scheme="light"):
        phone = width < 600
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            has_touch=phone,
            is_mobile=phone,
            offline=True,
        )
        self.faults = []
        self.page = self.context.new_page()
        self.page.on("request", self.requested)
        self.page.on("console", self.told)
        self.page.on("pageerror", lambda error: self.faults.append(("console", str(error)[:200])))

    def requested(self, request):
        if urlsplit(request.url).scheme not in ("file", "data", "blob"):
            self.faults.append(("request", request.url[:200]))

    def told(self, message):
        if message.type == "error":
            self.faults.append(("console", message.text[:200]))

    def look(self, path):
        """Open a page; its faults, and what it links to and can be linked at."""
        self.faults.clear()
        self.page.goto(path.as_uri())
        return self.inspect()

    def inspect(self):
        found = self.page.evaluate(INSPECT, self.page.viewport_size["width"])
        seen = [*self.faults, *map(tuple, found["faults"])]
        if found["wide"] and not any(kind == "width" for kind, _ in seen):
            seen.append(("width", "the whole page"))
        return seen, found["links"], set(found["ids"])

    def turn(self, width, scheme):
        """The same page at another width, in the light or the dark theme."""
        self.faults.clear()
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 900})


def dead(links, ids):
    """The links into the book that lead nowhere. ids: of each page that was opened."""
    for link in links:
        address, anchor = urldefrag(link)
        if urlsplit(address).scheme != "file":
            continue
        path = Path(url2pathname(unquote(urlsplit(address).path)))
        if not path.is_file():
            yield f"{link}: no such file"
        elif anchor and path in ids and unquote(anchor) not in ids[path]:
            yield f"{link}: no such place"


def unusable(axe, page, unread=()):
    """What axe-core calls serious or critical, each with the first place. unread: selectors of what
    is left out, as formulae are: they are large, and all alike."""
    options = {"resultTypes": ["violations"], "runOnly": RULES, "preload": False}
    context = {"exclude": [[selector] for selector in (".katex", *unread)]}
    for found in axe.run(page, context=context, options=options).response["violations"]:
        if found["impact"] in ("serious", "critical"):
            places = [node["html"][:120] for node in found["nodes"]]
            yield f"{found['id']} ({len(places)}): {places[0]}"


@pytest.fixture(scope="module")
def faults(browser, axe):
    """Of every page at both widths, by kind: lines with the page and the place.

    At the desk the theme is light, on the phone it is dark. axe-core reads every page once, without
    code and signatures, whose colours are the same everywhere, and a sample of pages in whole.
    """
    found, links, ids = defaultdict(list), {}, {}
    tab = Watched(browser, DESK)
    for path in pages(SITE):
        name = path.relative_to(SITE).with_suffix("").as_posix()
        tab.turn(PHONE, "dark")
        seen, links[path], ids[path] = tab.look(path)
        lines = [(kind, f"{name} at {PHONE}: {place}") for kind, place in seen]
        unread = unusable(axe, tab.page, ("pre", ".sig"))
        lines += [("axe", f"{name} at {PHONE}: {line}") for line in unread]
        tab.turn(DESK, "light")
        lines += [(kind, f"{name} at {DESK}: {place}") for kind, place in tab.inspect()[0]]
        if name in SAMPLE:
            for pause in (500, 3000):  # the theme answers to a new width after 0.3 s or so
                tab.page.wait_for_timeout(pause)
                if not (unread := [*unusable(axe, tab.page)]):
                    break
            lines += [("axe", f"{name} at {DESK}: {line}") for line in unread]
        for kind, line in lines:
            found[kind].append(line)
    tab.context.close()
    for path in links:
        name = path.relative_to(SITE)
        found["link"] += sorted({f"{name}: {line}" for line in dead(links[path], ids)})
    return found


KINDS = ("formula", "alt text", "picture", "width", "console", "request", "link", "axe")


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_has_a_fault(faults, kind):
    assert not faults[kind], "\n".join(faults[kind])


def seen(place):
    """What a reader sees of it besides the sliders: drawn parts, and the words below."""
    return place.locator(".play-stage").screenshot(), place.inner_text()


def by_keyboard(page, slider):
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")


def by_mouse(page, slider):
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=3)
    page.mouse.up()


def by_touch(page, slider):
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.85, box["y"] + box["height"] / 2)


def stuck(tab, path):
    """The sliders of a page that move nothing, and by what: lines."""
    ways = {PHONE: (by_touch,), DESK: (by_keyboard, by_mouse)}[tab.page.viewport_size["width"]]
    tab.page.goto(path.as_uri())
    for place in tab.page.locator("[data-play]").all():
        place.locator("input[type=range]").first.wait_for()
        for slider in place.locator("input[type=range]").all():
            for way in ways:
                slider.scroll_into_view_if_needed()
                before = seen(place)
                way(tab.page, slider)
                tab.page.wait_for_timeout(150)  # a frame is drawn
                if seen(place) == before:
                    yield f"{place.get_attribute('data-play')}, {way.__name__}"


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("name", PLAYED)
def test_everything_moves_by_mouse_touch_and_keyboard(browser, name, width):
    tab = Watched(browser, width, "dark")
    path = SITE / f"{name}.html"
    assert not [*stuck(tab, path)]
    found = [place.get_attribute("data-play") for place in tab.page.locator("[data-play]").all()]
    assert found == PLAYED[name]
    filters = "[...document.querySelectorAll('.play img')].map((i) => getComputedStyle(i).filter)"
    assert {*tab.page.evaluate(filters)} == {"none"}  # photos are shown as they are
    assert not tab.faults
    tab.context.close()


@pytest.mark.parametrize(("t", "blur_max"), [(0.0, 12.0), (0.3, 0.0), (0.5, 20.0), (1.0, 12.0)])
def test_the_sliders_of_diffusion_compute_what_the_library_does(browser, t, blur_max):
    tab = Watched(browser, DESK)
    tab.page.goto((SITE / "book/play.html").as_uri())
    drawn = tab.page.evaluate(f"schedule({t}, {blur_max})")
    schedule = BlurSchedule(sigma_blur_max=blur_max)
    expected = {
        "a": schedule.a(t).item(),
        "sigma": schedule.sigma(t).item(),
        "blur": schedule.blur_sigma(t).item(),
    }
    assert drawn == pytest.approx(expected, abs=1e-6)
    damped = tab.page.evaluate(f"[0, 3, 90].map((k) => damping(k, 128, {expected['blur']}))")
    column = schedule.damping(t, 128, 128)[0, 0, [0, 3, 90], 0].double()
    kept = (column - schedule.d_min) / (1 - schedule.d_min)
    assert damped == pytest.approx(kept.tolist(), abs=1e-6)
    tab.context.close()


def test_the_curves_are_at_every_rate_where_the_tables_are(browser):
    tab = Watched(browser, DESK)
    tab.page.goto((SITE / "book/play.html").as_uri())
    for codec in report.measured("kodak"):
        drawn = tab.page.evaluate(f"at(CURVES.lpips.codecs['{codec.label}'], 0.3)")
        assert drawn == pytest.approx(report.at_rate(codec.table, "lpips", 0.3), abs=2e-4)
    tab.context.close()


@pytest.mark.parametrize("term", ["quantization", "quantisation", "hyperprior", "DDPM", "BD-rate"])
def test_the_search_finds(browser, term):
    tab = Watched(browser, DESK)
    tab.page.goto(f"{(SITE / 'search.html').as_uri()}?q={term}")
    tab.page.locator("#search-results li").first.wait_for(timeout=5000)
    assert not tab.faults
    tab.context.close()


@pytest.mark.parametrize("name", PLAYED)
def test_without_scripts_a_picture_stands_in(browser, name):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((SITE / f"{name}.html").as_uri())
    stills = [place.locator("img").first for place in page.locator("[data-play]").all()]
    assert len(stills) == len(PLAYED[name])
    assert all(still.get_attribute("alt") and still.bounding_box() for still in stills)
    context.close()
