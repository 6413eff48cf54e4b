"""Weights from and to Hugging Face's layouts: one table of rules for each architecture, safetensors only.

| `model_type` | read | written | models |
|---|---|---|---|
| longformer | yes | yes | LongformerModel, LongformerForMaskedLM |
| led | yes | yes | LEDForConditionalGeneration |
| big_bird | yes | yes | BigBirdModel, BigBirdForMaskedLM |
| reformer | yes | no | ReformerModelWithLMHead, ReformerForMaskedLM |
| wav2vec2-conformer | yes | yes | the encoder of Wav2Vec2ConformerModel |
| transfo-xl | yes | no | TransfoXLLMHeadModel |

`python -m effjax.convert` does it on disk; `import_state_dict` and `export_state_dict` do it in memory, `import_led`,
`export_led`, `import_conformer` and `export_conformer` for what no task here trains.
"""

from effjax.interop.convert import export_state_dict, import_state_dict
from effjax.interop.led import export_led, import_led
from effjax.interop.wav2vec2_conformer import export_conformer, import_conformer

__all__ = [
    "export_conformer",
    "export_led",
    "export_state_dict",
    "import_conformer",
    "import_led",
    "import_state_dict",
]
