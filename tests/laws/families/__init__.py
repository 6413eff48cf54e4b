"""Every attention family as the laws see it, one file each.

A new family is a file with a `Family`, one more entry here, and not done before every law beside this package passes.
"""

from tests.laws.families.adaptive_span import ADAPTIVE_SPAN, DYNAMIC_SPAN
from tests.laws.families.big_bird import BIG_BIRD
from tests.laws.families.convolution import DEPTHWISE_CONV, DYNAMIC_CONV, LIGHT_CONV
from tests.laws.families.family import CHUNK, Family
from tests.laws.families.full import FULL
from tests.laws.families.linformer import LINFORMER
from tests.laws.families.local import LOCAL
from tests.laws.families.log_sparse import LOG_SPARSE
from tests.laws.families.longformer import LONGFORMER
from tests.laws.families.lsh import LSH
from tests.laws.families.lsra import LSRA_FAMILY
from tests.laws.families.nystromformer import NYSTROMFORMER
from tests.laws.families.performer import PERFORMER
from tests.laws.families.sparse_transformer import FIXED, STRIDED
from tests.laws.families.transformer_xl import TRANSFORMER_XL
from tests.laws.families.window import WINDOW_AND_SINKS

FAMILIES = (
    FULL,
    LOCAL,
    LSH,
    ADAPTIVE_SPAN,
    DYNAMIC_SPAN,
    TRANSFORMER_XL,
    PERFORMER,
    LINFORMER,
    NYSTROMFORMER,
    LONGFORMER,
    DEPTHWISE_CONV,
    LIGHT_CONV,
    DYNAMIC_CONV,
    LSRA_FAMILY,
    STRIDED,
    FIXED,
    LOG_SPARSE,
    BIG_BIRD,
    WINDOW_AND_SINKS,
)

__all__ = ["CHUNK", "FAMILIES", "Family"]
