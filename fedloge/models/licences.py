"""What the licence of pretrained weights is called, and whether it forbids commercial use."""

from __future__ import annotations

UNKNOWN = "not stated"
# Licences of research labs whose names do not say that they exclude commercial use.
_RESEARCH_ONLY = ("seer-license", "apple-amlr")


def licence_name(stated: str | None) -> str:
    """A licence as the weights' publisher states it, in lower case; an address of a known one by name.

    >>> licence_name("Apache-2.0"), licence_name(None)
    ('apache-2.0', 'not stated')
    >>> licence_name("https://github.com/facebookresearch/SWAG/blob/main/LICENSE")
    'cc-by-nc-4.0'
    """
    text = (stated or "").strip().lower()
    if "facebookresearch/swag" in text:
        return "cc-by-nc-4.0"
    return text if text not in ("", "unknown", "other", "missing") else UNKNOWN


def is_non_commercial(licence: str) -> bool:
    """Whether a licence by its name forbids commercial use.

    >>> is_non_commercial("cc-by-nc-4.0"), is_non_commercial("apache-2.0")
    (True, False)
    """
    words = licence.replace("_", "-").split("-")
    return "nc" in words or "noncommercial" in words or licence in _RESEARCH_ONLY
