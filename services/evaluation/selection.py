"""Which modalities a model chose for its answer, and how many people would have chosen the same.

The score of an answer is α, the share of votes for the combination of modalities in it. An answer in all three of
text, a visual and an auditory modality scores α / 3, so that saying everything in every way does not pay (arXiv
2412.15838; the published script leaves this rule out). An empty answer chose nothing, and nobody voted for that: 0.
"""

from collections.abc import Mapping

from omnialign.combinations import check_shares, combination

VISUAL = ("i", "v")


def selection_score(chosen: str, shares: Mapping[str, float], *, third: bool = True) -> float:
    """α of the combination `chosen`, 0 to 1; a third of it for all three modalities, unless `third` is off.

    Where the votes name one visual modality, images or videos, the other one counts as the same: voters were asked for
    something to look at. Raises InvalidArgument (SHARES_INVALID).
    """
    check_shares(shares)
    named = [letter for letter in VISUAL if any(letter in votes for votes in shares)]
    if len(named) == 1:
        chosen = combination(named[0] if letter in VISUAL else letter for letter in chosen)
    share = shares.get(chosen, 0.0)
    is_everything = {"t", "a"} <= set(chosen) and not set(VISUAL).isdisjoint(chosen)
    return share / 3 if third and is_everything else share
