"""The page: one screen of editors, controls and results, and what each of its buttons does."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from colorize_jax.errors import UserError
from colorize_jax.inference.metadata import read_metadata
from colorize_jax.looking.sheets import TEXTS
from colorize_jax.studio import journal
from colorize_jax.studio.page import painting
from colorize_jax.studio.page.controls import FRONT, groups, make_control, options_of, shown
from colorize_jax.studio.page.looking import look
from colorize_jax.studio.page.making import (
    MAX_PICTURES,
    follow,
    mask_preview,
    read_pictures,
    submit_all,
)
from colorize_jax.studio.page.presets import OWN, Presets
from colorize_jax.studio.service import Service

HISTORY = 24  # pictures that are shown again
KEPT_SECONDS = (3600, 86_400)  # how often uploads are looked through, and how long they are kept
CSS = """
.gradio-container {max-width: 1400px !important}
#preview {display: flex; gap: 8px}
#preview img {width: 45%; image-rendering: auto}
@media (max-width: 700px) {
  .columns {flex-direction: column}
  .columns > * {min-width: 100% !important}
}
"""
PAINTING = (
    "Green paints foreground, red background, over the estimate; black draws lines. Masks matter "
    "where options ask for them, such as split attention."
)
SEVERAL = (
    "Further references count everywhere, or where their colour is painted: "
    "{}. One without paint takes what the others leave."
)
NAMES = ("blue the first", "orange the second", "violet the third", "cyan the fourth")
Updates = list[Any]


class Page:
    """The components of the page and their handlers.

    Attributes:
        blocks: the page.
    """

    def __init__(self, service: Service, presets: Presets, files: Path):
        """Lay the page out.

        Args:
            service: that colours.
            presets: sets of options.
            files: folder for copies of pictures that browsers may fetch.
        """
        self._service, self._presets, self._files = service, presets, files
        self._defaults = service.pipeline.defaults.to_dict()
        self._controls: dict[str, gr.components.Component] = {}
        with gr.Blocks(
            title="colorize-jax", analytics_enabled=False, delete_cache=KEPT_SECONDS
        ) as self.blocks:
            gr.Markdown("# colorize-jax studio")
            with gr.Row(elem_classes="columns"):
                with gr.Column(min_width=300):
                    self._pictures()
                with gr.Column(min_width=300):
                    self._front()
                with gr.Column(min_width=300):
                    self._results()
            with gr.Accordion("What the networks look at", open=False, elem_id="looking"):
                self._looking()
            with gr.Accordion("All other options", open=False):
                self._groups()
            self._wire()

    # ------------------------------------------------------------------------------ components

    def _pictures(self) -> None:
        brush = gr.Brush(
            colors=[painting.FOREGROUND, painting.BACKGROUND, painting.LINE],
            color_mode="fixed",
            default_size=12,
        )
        common = {"type": "pil", "brush": brush, "height": 340, "sources": ["upload", "clipboard"]}
        common |= {"buttons": ["fullscreen"]}
        self._sketch = gr.ImageEditor(label="Sketch", elem_id="sketch", **common)
        self._reference = gr.ImageEditor(label="Reference", elem_id="reference", **common)
        gr.Markdown(PAINTING)
        with gr.Accordion("Masks and background", open=False):
            self._show_masks = gr.Button("Show both masks")
            with gr.Row():
                # No button that shares pictures with another machine.
                shown = {"interactive": False, "height": 160, "buttons": ["fullscreen"]}
                self._sketch_mask = gr.Image(label="Sketch", **shown)
                self._reference_mask = gr.Image(label="Reference", **shown)
            self._background = gr.Image(
                label="Background of its own",
                type="pil",
                height=200,
                sources=["upload"],
                buttons=[],
            )

        with gr.Accordion("More references, colour hints", open=False, elem_id="several"):
            with gr.Row():
                shown = {"type": "pil", "height": 130, "sources": ["upload"], "buttons": []}
                self._others = [
                    gr.Image(label=f"Reference {k}", elem_id=f"reference-{k}", **shown)
                    for k in range(2, 2 + len(painting.REGIONS) - 1)
                ]
            self._take = gr.Button("Put the sketch below", elem_id="take")
            gr.Markdown(SEVERAL.format(", ".join(NAMES)))
            regions = gr.Brush(colors=list(painting.REGIONS), color_mode="fixed", default_size=24)
            self._regions = gr.ImageEditor(
                label="Regions of references",
                elem_id="regions",
                **common | {"brush": regions, "format": "png"},
            )
            gr.Markdown("Strokes of any colour say what the picture has there.")
            hints = gr.Brush(default_size=12)
            self._hints = gr.ImageEditor(
                label="Colour hints", elem_id="hints", **common | {"brush": hints, "format": "png"}
            )

    def _front(self) -> None:
        self._preset = gr.Dropdown(
            self._presets.names(), value=OWN, label="Preset", elem_id="preset"
        )
        for name in FRONT:
            self._controls[name] = make_control(name, self._defaults[name])
        self._lock = gr.Checkbox(False, label="Lock the seed", info="else each click draws another")
        self._count = gr.Slider(
            1, MAX_PICTURES, value=1, step=1, label="Pictures", info="of seeds one after another"
        )
        with gr.Row():
            self._run = gr.Button("Colour", variant="primary", elem_id="run")
            self._cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
        self._status = gr.Markdown("Ready.", elem_id="status")

    def _results(self) -> None:
        self._preview = gr.HTML(elem_id="preview")
        self._slider = gr.ImageSlider(
            label="Sketch and result",
            type="filepath",
            max_height=500,
            interactive=False,
            buttons=["download", "fullscreen"],
        )
        self._gallery = gr.Gallery(
            label="Results",
            elem_id="results",
            columns=2,
            height=420,
            object_fit="contain",
            interactive=False,
            buttons=["download", "fullscreen"],
        )
        self._restore = gr.File(
            label="Drop a PNG that was made here: its options come back",
            file_types=[".png"],
            elem_id="restore",
            height=150,
        )
        with gr.Accordion("History", open=False):
            self._history = gr.Gallery(
                label="Latest pictures: choose one for its options",
                columns=4,
                height=240,
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
            )
        self._shown = gr.State([])  # numbers of the jobs in the history
        self._jobs = gr.State([])  # of the latest click

    def _looking(self) -> None:
        self._view = gr.Radio(
            [(f"{name}: {text}", name) for name, text in TEXTS.items()],
            value=next(iter(TEXTS)),
            label="View of the picture that these options make",
            elem_id="view",
        )
        self._look = gr.Button("Look", elem_id="look")
        self._sheet = gr.Image(
            label="View",
            elem_id="sheet",
            type="pil",
            interactive=False,
            buttons=["download", "fullscreen"],
        )

    def _groups(self) -> None:
        with gr.Tabs():
            for title, names in groups().items():
                with gr.Tab(title):
                    for name in names:
                        self._controls[name] = make_control(name, self._defaults[name])
            with gr.Tab("Presets"):
                self._name = gr.Textbox(label="Keep all options as", placeholder="a name")
                self._save = gr.Button("Save preset")

    def _wire(self) -> None:
        controls = list(self._controls.values())
        pictures = [self._sketch, self._reference, self._background]
        pictures += [*self._others, self._regions, self._hints]
        seed = self._controls["seed"]
        self._run.click(
            self._color,
            [*pictures, self._lock, self._count, *controls],
            [self._status, self._preview, self._slider, self._gallery, seed, self._jobs],
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        ).then(self._list, None, [self._history, self._shown], api_visibility="private")
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self._cancel.click(self._stop, self._jobs, self._status, **quiet)
        restored = [self._status, self._lock, *controls]
        self._preset.input(self._use, self._preset, restored, **quiet)
        self._save.click(self._keep, [self._name, *controls], [self._status, self._preset], **quiet)
        self._restore.upload(self._recall, self._restore, restored, **quiet)
        self._history.select(self._again, self._shown, restored, **quiet)
        masks = [self._sketch_mask, self._reference_mask, self._status]
        self._look.click(
            self._show_view,
            [self._view, self._sketch, self._reference, *controls],
            [self._status, seed, self._sheet],
            concurrency_limit=1,
            api_visibility="private",
        )
        below = [self._regions, self._hints]
        self._take.click(_sheets, self._sketch, below, **quiet)
        self._show_masks.click(self._masks, [self._sketch, self._reference], masks, **quiet)
        self.blocks.load(self._list, None, [self._history, self._shown], api_visibility="private")

    # -------------------------------------------------------------------------------- handlers

    def _color(
        self,
        request: gr.Request,
        sketch: Any,
        reference: Any,
        background: Any,
        *rest: Any,
    ) -> Iterator[Updates]:
        """Queue pictures and tell where they stand: status, previews, results, seed, jobs."""
        keep, further = gr.skip(), len(self._others)
        others, (regions, hints, locked, count, *values) = rest[:further], rest[further:]
        try:
            options = options_of(dict(zip(self._controls, values, strict=True)))
            options = options if locked else options.replace(seed=None).with_seed()
            pictures = read_pictures(sketch, reference, background, options, others, regions, hints)
            jobs = submit_all(self._service, pictures, options, int(count), _owner(request))
        except UserError as error:
            yield [_told(error), "", keep, keep, keep, []]
            return
        ids = [job.record.id for job in jobs]
        seed = shown("seed", jobs[0].options.seed)
        for now in follow(self._service, jobs):
            made = [self._copy(r.id) for r in now.records if r.status == journal.DONE]
            slider: Any = keep
            if now.finished and made:
                before = pictures["sketch"].on(255)
                place = self._files / ids[0] / "sketch.png"
                before.save(place)
                slider = (str(place), made[0])
            yield [now.told, _previews(now.previews), slider, made, seed, ids]

    def _stop(self, ids: list[str], request: gr.Request) -> Any:
        for job_id in ids:
            self._service.cancel(job_id, _owner(request))
        return "Cancelled." if ids else gr.skip()

    def _use(self, name: str) -> Updates:
        try:
            options = self._presets.load(name).to_dict()
        except UserError as error:
            return self._nothing(_told(error))
        return [f"Options of “{name}”.", gr.skip(), *self._values(options)]

    def _keep(self, name: str, *values: Any) -> Updates:
        try:
            options = options_of(dict(zip(self._controls, values, strict=True)))
            self._presets.save(name, options)
        except UserError as error:
            return [_told(error), gr.skip()]
        names = self._presets.names()
        return [f"Kept as “{name.strip()}”.", gr.Dropdown(names, value=name.strip())]

    def _recall(self, path: str | None) -> Updates:
        if path is None:
            return self._nothing(gr.skip())
        try:
            options = read_metadata(path).options.to_dict()
        except UserError as error:
            # The path is of the server's own copy.
            return self._nothing(_told(str(error).replace(path, Path(path).name)))
        return ["Options of the picture.", True, *self._values(options)]

    def _again(self, ids: list[str], chosen: gr.SelectData, request: gr.Request) -> Updates:
        record = self._service.find(ids[chosen.index], _owner(request))
        if record is None:
            return self._nothing("⚠ got a picture that is gone, expected a newer one.")
        return ["Options of the picture.", True, *self._values(record.options)]

    def _masks(self, sketch: Any, reference: Any) -> Updates:
        try:
            return [mask_preview(sketch, True), mask_preview(reference, False), gr.skip()]
        except UserError as error:
            return [None, None, _told(error)]

    def _show_view(self, name: str, sketch: Any, reference: Any, *values: Any) -> Updates:
        try:
            options = options_of(dict(zip(self._controls, values, strict=True))).with_seed()
            pictures = read_pictures(sketch, reference, None, options)
            sheet = look(self._service, pictures, options, name)
        except UserError as error:
            return [_told(error), gr.skip(), None]
        return [f"{name.capitalize()}: drawn.", shown("seed", options.seed), sheet]

    def _list(self, request: gr.Request) -> tuple[list[str], list[str]]:
        """The history: copies of pictures, and the numbers of their jobs."""
        owner = _owner(request)
        latest = self._service.journal.latest(4 * HISTORY)
        ids = [r.id for r in latest if r.status == journal.DONE and r.owner == owner][:HISTORY]
        return [self._copy(job_id) for job_id in ids], ids

    def _values(self, options: dict[str, Any]) -> Updates:
        return [shown(name, options[name]) for name in self._controls]

    def _nothing(self, told: Any) -> Updates:
        return [told, gr.skip(), *([gr.skip()] * len(self._controls))]

    def _copy(self, job_id: str) -> str:
        """Copy a job's picture to where browsers may fetch it."""
        place = self._files / job_id / f"{job_id[:8]}.png"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._service.journal.picture(job_id), place)
        return str(place)


def _previews(urls: Sequence[str]) -> str:
    """Pictures that are under way, side by side."""
    return "".join(f'<img src="{url}" alt="what the picture will roughly be">' for url in urls)


def _sheets(sketch: dict[str, Any] | None) -> Updates:
    """The sketch as what regions and hints are painted on."""
    seen = None if sketch is None else sketch["composite"]
    if seen is None:
        return [gr.skip(), gr.skip()]
    return [{"background": seen, "layers": [], "composite": seen}] * 2


def _owner(request: gr.Request) -> str:
    return request.username or ""


def _told(error: UserError | str) -> str:
    return f"⚠ {error}"
