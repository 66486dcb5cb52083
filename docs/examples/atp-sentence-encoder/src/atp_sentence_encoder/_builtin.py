"""A few hundred sentences to try things out with; for figures that count, use text of your own."""

from __future__ import annotations

__all__ = ["builtin_sentences"]

_THINGS = (
    "the old ferry",
    "her violin",
    "a vegetable garden",
    "the chess club",
    "this bakery",
    "the lighthouse",
    "our telescope",
    "a flock of geese",
    "the night train",
    "the dentist's waiting room",
    "a broken radio",
    "the school orchestra",
    "the tax office",
    "a sleeping volcano",
    "the football stadium",
    "my grandmother's recipe for soup",
    "the court hearing",
    "a solar panel",
    "the public library",
    "an orchard of pears",
    "the stock exchange",
    "a young sheepdog",
    "the vaccine trial",
    "the road through the desert",
)
_FRAMES = (
    "Nobody expected {} to be so expensive.",
    "We spent the whole afternoon talking about {}.",
    "Did you read the article about {} in yesterday's paper?",
    "Without {}, life in this town would be quieter.",
    "The photograph on the wall shows {} in winter.",
    "He wrote a short poem about {} and never showed it to anyone.",
    "Please do not take the children to see {} on a Monday.",
    "Three people asked me today where to find {}.",
    "It rained so hard that we could hardly see {}.",
    "Scientists have published a report on {} and its history.",
    "The insurance does not cover {}.",
    "She dreamed that {} had been painted blue.",
    "Is {} really worth all this trouble?",
    "A film about {} won a prize at the festival last year.",
)


def builtin_sentences() -> list[str]:
    """Every thing in every frame: 336 sentences that resemble each other in two ways."""
    return [frame.format(thing) for thing in _THINGS for frame in _FRAMES]
