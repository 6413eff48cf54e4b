"""Weights from and to Hugging Face's layouts: one table of rules for each architecture, safetensors only.

| `model_type` | read | written | models |
|---|---|---|---|
| longformer | yes | yes | LongformerModel, LongformerForMaskedLM |
| big_bird | yes | yes | BigBirdModel, BigBirdForMaskedLM |
| reformer | yes | no | ReformerModelWithLMHead, ReformerForMaskedLM |
| transfo-xl | yes | no | TransfoXLLMHeadModel |

`python -m effjax.convert` does it on disk; `import_state_dict` and `export_state_dict` in memory.
"""

from effjax.interop.convert import export_state_dict, import_state_dict

__all__ = ["export_state_dict", "import_state_dict"]
