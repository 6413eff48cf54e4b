"""WikiText-103 for TensorFlow Datasets: `tfds.data_source("wiki_text103")` once this module is imported."""

from etils import epath

from effjax.data.text_builder import TextBuilder, read_or_download
from effjax.data.token_files import WIKITEXT103, TokenFiles, derive_words
from effjax.data.words import WordVocabulary


class WikiText103(TextBuilder):
    """28,595 good or featured articles of the English Wikipedia, in words: 103M/218K/246K with the ends of lines."""

    TEXT = WIKITEXT103
    HOMEPAGE = "https://blog.salesforceairesearch.com/the-wikitext-long-term-dependency-language-modeling-dataset/"

    def _split_generators(self, dl_manager):
        parts = TokenFiles(dl_manager.download(self.TEXT.url), self.TEXT).parts()
        return {split: self._generate_examples(part) for split, part in parts.items()}


def prepared_words(vocabulary: WordVocabulary, data_dir: epath.PathLike | None = None):
    """As `TokenFiles.words`, of the text as TensorFlow Datasets keeps it; what is derived lies beside that."""
    derived = WikiText103(data_dir=data_dir).data_path.parent / f"words-{vocabulary.size}.npz"
    derived.parent.mkdir(parents=True, exist_ok=True)
    return derive_words(vocabulary, derived, WIKITEXT103.sha256, lambda: read_or_download(WikiText103, data_dir))
