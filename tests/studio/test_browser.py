"""The page in a real browser: `pytest -m slow tests/studio/test_browser.py`.

It needs gradio, playwright and Chromium, Debian's or playwright's own.
"""

import io
import re
import shutil
import threading

import numpy as np
import pytest
import small_run
import small_system
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("playwright")

import uvicorn
from playwright import sync_api

from colorize_jax.inference.metadata import read_metadata
from colorize_jax.setup.checkpoints import open_pipeline
from colorize_jax.studio.access import Access
from colorize_jax.studio.app import create_app
from colorize_jax.studio.journal import Journal
from colorize_jax.studio.page.mounting import mount_page
from colorize_jax.studio.service import Service

pytestmark = pytest.mark.slow
WAIT = 120_000  # ms; the first picture is compiled for
SOON = 30_000  # ms; what takes no time, on a machine that other work shares
TOOLS = "button[aria-label=Brush]"  # there when an editor is ready; before that it loses pictures
# Elements that can be used and that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll('input,textarea,select,button,[role=slider]')]
    .filter(e => e.offsetParent && !e.ariaLabel && !e.title && !e.labels?.length
        && !e.innerText.trim() && !e.getAttribute('aria-labelledby'))
    .map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, picture in zip(
        ("sketch", "reference"), small_system.make_pictures(height=96, width=96), strict=True
    ):
        Image.fromarray(np.asarray(picture)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    pipeline = open_pipeline(small_run.make(folder / "run"))
    service = Service(pipeline, Journal(folder / "outputs"))
    app = mount_page(create_app(service), service, Access())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser():
    """One of its own for each test: whatever an earlier page left in it is gone."""
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium")
        if path is None:
            pytest.skip("there is no Chromium on this machine")
        sync_api.expect.set_options(timeout=SOON)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url, pictures):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#run", timeout=WAIT)
    yield page
    foreign = [one for one in page.asked if not one.startswith((url, "data:", "blob:"))]
    page.close()
    assert not foreign


def told(page, pattern):
    """Wait until the status says something."""
    status = page.locator("#status")
    sync_api.expect(status).to_have_text(re.compile(pattern), timeout=WAIT)
    return status.inner_text()


def upload(page, pictures):
    """Give both editors their pictures.

    An editor of Gradio's that does not come up takes no file for ever; like its user, load again.
    """
    for last in (False, False, True):
        page.wait_for_selector("#run", timeout=WAIT)
        if all(_taken(page, name, pictures) for name in ("sketch", "reference")):
            return
        assert not last, page.said[-20:]
        page.reload()


def _taken(page, name, pictures):
    """Give an editor its picture; whether it takes it."""
    editor = page.locator(f"#{name}")
    try:
        editor.locator(TOOLS).wait_for(timeout=WAIT // 2)
        editor.locator("input[type=file]").set_input_files(pictures / f"{name}.png")
        editor.get_by_text("Upload an image").wait_for(state="hidden", timeout=SOON)
    except sync_api.TimeoutError:
        return False
    page.wait_for_timeout(1000)  # until the server has it too
    return True


def stroke(page, name):
    """Paint across the middle of an editor's picture."""
    page.locator(f"#{name} {TOOLS}").click()
    page.wait_for_timeout(500)
    box = page.locator(f"#{name} canvas").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], middle, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)


def made(page):
    """The pixels of the result."""
    source = page.locator("#results img").first.get_attribute("src")
    with Image.open(io.BytesIO(page.request.get(source).body())) as image:
        return np.asarray(image)


def number(page, name):
    return page.locator(f"#option-{name} input[type=number]")


def test_a_picture_is_made_restored_and_repeated(page, pictures, tmp_path):
    upload(page, pictures)
    page.locator("#option-seed").locator("input, textarea").fill("5")
    page.get_by_label("Lock the seed").check()
    page.locator("#run").click()
    assert "seed 5" in told(page, "Done|⚠")
    source = page.locator("#results img").first.get_attribute("src")
    file = tmp_path / "made.png"
    file.write_bytes(page.request.get(source).body())
    assert read_metadata(file).options.seed == 5
    # Other options, then those of the picture again.
    page.locator("#preset input").click()
    page.get_by_role("option", name="published defaults").click()
    told(page, "Options of “published defaults”")
    assert number(page, "steps").input_value() == "20"
    page.locator("#restore input[type=file]").set_input_files(file)
    told(page, "Options of the picture")
    assert number(page, "steps").input_value() == str(read_metadata(file).options.steps)
    # A picture of another origin has no options, and the page says so.
    page.reload()
    page.wait_for_selector("#run")
    page.locator("#restore input[type=file]").set_input_files(pictures / "sketch.png")
    assert "without colorize-jax's options" in told(page, "⚠")


def test_a_mask_is_painted(page, pictures):
    upload(page, pictures)
    stroke(page, "sketch")
    page.get_by_text("All other options").click()
    page.get_by_role("tab", name="Foreground and background").click()
    page.get_by_label("split attention").check()
    page.locator("#run").click()
    told(page, "Done")


def test_a_running_picture_is_cancelled(page, pictures):
    upload(page, pictures)
    number(page, "steps").fill("400")
    number(page, "steps").press("Tab")
    page.locator("#run").click()
    told(page, "step [1-9]")
    sync_api.expect(page.locator("#preview img")).to_be_visible()
    page.locator("#cancel").click()
    told(page, "Cancelled")
    sync_api.expect(page.locator("#preview img")).to_have_count(0)


def test_another_reference_and_a_hint_change_the_picture(page, pictures):
    upload(page, pictures)
    page.locator("#option-seed").locator("input, textarea").fill("5")
    page.get_by_label("Lock the seed").check()
    page.locator("#run").click()
    told(page, "Done")
    seen = [made(page)]
    page.get_by_text("More references, colour hints").click()
    # Strokes are painted over the sketch: first a hint, then the first reference's region.
    for name in ("hints", "regions"):
        page.locator(f"#{name} {TOOLS}").wait_for(timeout=WAIT)
    page.locator("#take").click()
    for name in ("hints", "regions"):
        empty = page.locator(f"#{name}").get_by_text("Upload an image")
        sync_api.expect(empty).to_be_hidden(timeout=WAIT)
        page.wait_for_timeout(1000)
        stroke(page, name)
        if name == "regions":
            page.locator("#run").click()
            told(page, "⚠ got regions for one reference")
            page.locator("#reference-2 input[type=file]").set_input_files(pictures / "sketch.png")
            page.wait_for_timeout(3000)
        page.locator("#run").click()
        told(page, "Colouring|Waiting")
        told(page, "Done")
        seen.append(made(page))
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()


def test_what_the_networks_look_at_is_drawn(page, pictures):
    upload(page, pictures)
    page.get_by_text("What the networks look at").click()
    page.locator("#view input[value=levels]").check()
    page.locator("#look").click()
    told(page, "Levels: drawn")
    sync_api.expect(page.locator("#sheet img")).to_be_visible()


def test_mistakes_are_one_sentence_and_the_page_goes_on(page, pictures):
    page.locator("#run").click()
    told(page, "⚠ got no sketch, expected one")
    upload(page, pictures)
    page.locator("#option-seed").locator("input, textarea").fill("five")
    page.locator("#run").click()
    told(page, "⚠ got seed")
    page.locator("#option-seed").locator("input, textarea").fill("")
    page.locator("#run").click()
    told(page, "Done")


def test_it_is_used_by_keyboard_and_on_a_telephone(page, pictures):
    assert page.evaluate(NAMELESS) == []
    upload(page, pictures)
    page.locator("#option-seed").locator("input, textarea").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "run":
            break
    page.keyboard.press("Enter")
    told(page, "Done")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_file_but_copies_of_pictures_is_served(page, url, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for path in (secret, "/etc/passwd", "pyproject.toml", "../.presets/mine.yaml"):
        answer = page.request.get(f"{url}gradio_api/file={path}")
        assert answer.status in (403, 404), path
    assert page.request.get(url, headers={"origin": "https://foe.example"}).status == 403
