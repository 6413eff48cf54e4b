"""Translation, measured by BLEU."""

from effjax.errors import UserError
from effjax.tasks.text_to_text import TextToText


class Translation(TextToText):
    """Writes sentences in another language; see `TextToText`.

    BLEU is that of sacreBLEU on plain text, a percentage; `notes` gives its signature, without which it says nothing.

    Source: Papineni et al. 2002; Post 2018 (1804.08771).
    """

    whole_file = False

    def quality(self, written: list[str], references: list[str]) -> dict[str, float]:
        try:
            from sacrebleu.metrics import BLEU
        except ImportError as error:
            raise UserError(f"BLEU needs sacrebleu ({error}): pip install 'effjax[translation]'") from None
        bleu = BLEU(lowercase=self.config.options.lowercase)
        score = bleu.corpus_score(written, [references]).score
        self._notes = {"bleu_signature": str(bleu.get_signature())}
        return {"bleu": score}
