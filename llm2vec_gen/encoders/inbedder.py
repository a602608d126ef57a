"""InBedder (arXiv 2402.09642): a language model trained to answer in few words, read where its answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from llm2vec_gen.encoders.adapted import merge_adapter
from llm2vec_gen.encoders.base import PooledEncoder, Row
from llm2vec_gen.encoders.llm2vec import check_template_of
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import PathOrId

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.tokenization import Tokenization

TEMPLATE = "{text}\nIn a few words:"


class InBedder(PooledEncoder):
    """e = h_N, the last state at the last position of the prompt, which predicts the first token of the answer Y to
    the prompt made of instruction I and text X: Y = LLM(I X) (the paper's formulation). Of its readouts over the states
    of the answer (mean of the prompt, mean of the answer, first and last generated state) this is the "first
    generation" one, the default of the authors' code; no token is generated for it.

    backbone: the language model; the adapter is merged into its weights, so give it one that nothing else uses.
    adapter: what `teach teacher_training=inbedder` wrote, or any LoRA adapter in PEFT's layout; null for a backbone
    that was trained completely. An adapter of another backbone is an InputError.
    template: the prompt, with {text} once and {instruction} at most once; without the latter an instruction stands
    before the text, joined by one space. It has to be the one of the training.
    max_length: tokens of the prompt; a longer text loses its end, the template nothing.
    """

    backbone: Backbone
    name = "inbedder"
    adapters: ClassVar[tuple[str, ...]] = ("adapter",)
    """Settings that name LoRA adapters, which `run` checks before it begins."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: PathOrId | None = None,
        adapter_revision: str = "main",
        template: str = TEMPLATE,
        max_length: int = 512,
        use_instruction: bool = True,
    ):
        super().__init__(backbone, max_length, use_instruction)
        self.template = check_template(template)
        folder = merge_adapter(backbone, adapter, adapter_revision, self.name)
        if folder is not None:
            check_template_of(folder, f"baseline.inbedder.adapter={adapter}", template)

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the filled template of each text; the position is the last one."""
        tokens = self.backbone.tokenization
        prompts = [answer_prompt(tokens, self.template, text, instruction, self.max_length)[0] for text in texts]
        return [Row(prompt, len(prompt) - 1, len(prompt)) for prompt in prompts]


def check_template(template: str) -> str:
    """Return the template; InputError unless it has {text} once and {instruction} at most once."""
    if not isinstance(template, str) or template.count("{text}") != 1 or template.count("{instruction}") > 1:
        raise InputError(
            f"the InBedder template {template!r}: expected a text with {{text}} once and {{instruction}} at most once"
        )
    if not template.split("{text}")[1].replace("{instruction}", "").strip():
        raise InputError(
            f"the InBedder template {template!r} ends with its text; expected words that ask for an answer"
        )
    return template


def answer_prompt(
    tokens: Tokenization, template: str, text: str, instruction: str | None, max_length: int
) -> tuple[list[int], bool]:
    """Return the token ids of the filled template, and whether the text was cut for it to fit `max_length`.

    Text and instruction are stripped and cannot spell control tokens. A template that alone is longer keeps its end.
    """
    text, asked = text.strip(), (instruction or "").strip()
    if asked and "{instruction}" not in template:
        text, asked = f"{asked} {text}".strip(), ""
    ids = _filled(tokens, template, text, asked)
    if len(ids) <= max_length:
        return ids, False
    _, places = tokens.read(tokens.hide(text))
    keep = len(places) - (len(ids) - max_length)
    while keep > 0 and len(ids) > max_length:  # at the seams a shorter text may be read as other tokens
        ids = _filled(tokens, template, text[: places[keep - 1][1]], asked)
        keep -= 1
    if len(ids) > max_length:
        ids = _filled(tokens, template, "", asked)[-max_length:]
    return ids, True


def _filled(tokens: Tokenization, template: str, text: str, instruction: str) -> list[int]:
    parts = {"{text}": text, "{instruction}": instruction}
    rendered = template
    for name in sorted(parts, key=template.find, reverse=True):  # from the right: texts may spell a placeholder
        place = template.find(name)
        if place >= 0:
            rendered = rendered[:place] + tokens.hide(parts[name]) + rendered[place + len(name) :]
    return [*tokens.beginning, *tokens.read(rendered)[0]]
