"""Summarisation, measured by ROUGE."""

from effjax.errors import UserError
from effjax.tasks.text_to_text import TextToText

ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeLsum"}


class Summarisation(TextToText):
    """Writes a summary of a document; see `TextToText`.

    ROUGE is the mean F1 over documents, a percentage, by Google's `rouge-score` with stemming; ROUGE-L is that of whole
    summaries, whose sentences are their lines.

    Source: Lin 2004.
    """

    def quality(self, written: list[str], references: list[str]) -> dict[str, float]:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise UserError(f"ROUGE needs rouge-score ({error}): pip install 'effjax[translation]'") from None
        scorer = RougeScorer(list(ROUGE.values()), use_stemmer=True)
        scores = [scorer.score(reference, text) for reference, text in zip(references, written, strict=True)]
        self._notes = {"rouge": "rouge-score, F1, stemmed; L of summaries by lines"}
        return {
            name: 100 * sum(score[variant].fmeasure for score in scores) / len(scores)
            for name, variant in ROUGE.items()
        }
