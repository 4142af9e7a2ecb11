"""What an engine for sound would not honour, refused by its name. Pure."""

from cloudcrest.gateway.sound.fields import SpeechBody, TranscriptionBody
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.serving.api import EngineName


def check_sound(body: SpeechBody | TranscriptionBody, engine: EngineName) -> None:
    """Raises `InvalidInput` whose `param` is the field."""
    if isinstance(body, SpeechBody):
        if body.instructions is not None and engine == "piper":
            raise _unsupported("instructions", "this model's engine speaks as it speaks: it follows no instructions")
        return
    if engine != "moonshine":
        return
    if body.prompt:
        raise _unsupported("prompt", "this model's engine takes no prompt")
    if body.temperature:
        raise _unsupported("temperature", "this model's engine takes the likeliest words alone", is_value=True)
    if "word" in (body.timestamp_granularities or ()):
        raise _unsupported("timestamp_granularities", "this model's engine knows the times of segments", is_value=True)
    if body.include:
        raise _unsupported("include", "this model's engine gives nothing beside the text")
    if body.chunking_strategy not in (None, "auto"):
        raise _unsupported("chunking_strategy", "long recordings are cut at their pauses: 'auto'", is_value=True)


def _unsupported(name: str, why: str, *, is_value: bool = False) -> InvalidInput:
    return InvalidInput(why, param=name, code="unsupported_value" if is_value else "unsupported_parameter")
