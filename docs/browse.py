"""Every page of the built site in a headless browser: wide and narrow, light and dark; and search.

    python docs/browse.py                  # needs Chromium; --browser says where, if it is not on the path
    python docs/browse.py --shots shots    # keeps a picture of each page in each way

It fails, and names the page, where something scrolls sideways at 380 pixels, a picture has no text, letters have less
than the contrast 4.5 to 1 of their ground (WCAG 2.1, 1.4.3), the browser's console reports an error, or search does
not find what it should first.
"""

import argparse
import contextlib
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

BUILT = Path(__file__).parent / "_build" / "html"
WAYS: list[tuple[Literal["light", "dark"], int]] = [
    ("light", 1200),
    ("dark", 1200),
    ("light", 380),
    ("dark", 380),
]
SEARCHES = {
    "end_to_end": "objectives.html#spen_jax.objectives.end_to_end",
    "min-sum": "learn/factor_graphs.html",
    "free energy": "learn/latent.html",
    "forbidden sphere": "learn/losses.html",
    "most offending": "learn/",
    "SPENClassifier": "estimators.html#spen_jax.estimators.SPENClassifier",
}
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] > 200) return color;
    }
    return [255, 255, 255, 255];
  };
  const poor = {};
  for (const node of document.querySelectorAll('article *')) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor[node.className || node.tagName] = ratio.toFixed(1) + ' ' + node.textContent.slice(0, 30);
  }
  return Object.entries(poor).map(([name, what]) => `${name}: ${what}`);
}"""


@contextlib.contextmanager
def served(folder: Path):
    """The address of a folder's files on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            """Nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def faults(page: Page, name: str, width: int) -> list[str]:
    """What is wrong with the page that is shown."""
    across = page.evaluate("document.documentElement.scrollWidth")
    mute = page.evaluate("[...document.images].filter((i) => !i.alt.trim()).map((i) => i.src)")
    lost = page.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
    found = [f"scrolls sideways: {across} of {width} pixels"] if across > width else []
    found += [f"a picture without text: {src}" for src in mute]
    found += [f"a picture that does not load: {src}" for src in lost]
    if "_modules" not in name:
        found += [f"poor contrast: {what}" for what in page.evaluate(CONTRAST)]
    return found


def visit(browser: Browser, address: str, names: list[str], shots: Path | None) -> list[str]:
    """All faults of all pages in all ways."""
    found, errors = [], []
    for scheme, width in WAYS:
        view = ViewportSize(width=width, height=900)
        page = browser.new_context(color_scheme=scheme, viewport=view).new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in names:
            page.goto(f"{address}/{name}", wait_until="load")
            for what in faults(page, name, width) + errors:
                found.append(f"{name} ({scheme}, {width}): {what}")
            errors.clear()
            if shots:
                to = shots / f"{name.replace('/', '_')}-{scheme}-{width}.png"
                page.screenshot(path=to, full_page=True)
        print(
            f"{len(names)} pages, {scheme}, {width} pixels: {len(found)} faults so far", flush=True
        )
    return found


def search(browser: Browser, address: str) -> list[str]:
    """What search does not find among its first five."""
    found = []
    for query, wanted in SEARCHES.items():
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        page.locator("input.sidebar-search").first.fill(query)
        page.keyboard.press("Enter")
        page.wait_for_selector("ul.search li a", timeout=20_000)
        page.wait_for_timeout(1500)  # results arrive one by one
        links = page.eval_on_selector_all("ul.search li > a", "all => all.map((a) => a.href)")[:5]
        print(f"search for {query}: {[link.removeprefix(address) for link in links]}")
        if not any(wanted in link for link in links):
            found.append(f"search for {query} does not find {wanted}")
    return found


def main() -> int:
    """0 where nothing is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--browser", default=shutil.which("chromium") or shutil.which("google-chrome")
    )
    parser.add_argument("--shots", type=Path, help="a folder for pictures of all pages")
    parser.add_argument("--only", default="", help="pages with this in their names")
    arguments = parser.parse_args()
    if not BUILT.exists():
        parser.error("build the site first: docs/README.md says how")
    if arguments.browser is None:
        parser.error("no Chromium on the path: install it, or say where by --browser")
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    names = sorted(
        str(p.relative_to(BUILT)) for p in BUILT.rglob("*.html") if arguments.only in str(p)
    )
    with served(BUILT) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.browser, args=["--no-sandbox"]
        )
        found = visit(browser, address, names, arguments.shots) + search(browser, address)
    print("\n".join(found) or "nothing wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
