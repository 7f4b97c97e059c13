"""What of a URL may be shown: credentials stay out of datasets, rejects, logs and messages."""

import re

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_IN_TEXT = re.compile(
    r"(?i)((?:[\w-]*(?:token|secret|passw(?:or)?d|signature|credential)|[\w-]+[_-]key(?:_?id)?|(?<=[?&])sig)=)[^&\s]+"
)
_SECRET_FIELD = re.compile(
    r"(?i)(?:token|secret|passw(?:or)?d|signature|credential|[_-]key(?:_?id)?)\Z"
    r"|\A(?:api_?key|auth\w*|awsaccesskeyid|jwt|key|pass|pwd|sig)\Z"
)
_CONTAINERS = ("abfs://", "abfss://")
"""`abfs://CONTAINER@ACCOUNT/...`: what stands before the `@` is no user."""


def without_secrets(text: str) -> str:
    """Return a text without credentials: `user:password@` in a URL, and values of `token=` and the like."""
    return _IN_TEXT.sub(r"\1...", _USER.sub("", text))


def public_url(audio: str) -> str:
    """Return how a file is named where others see it: a URL without credentials, a path as it is.

    Left out are `user:password@` and the values of those fields of the query whose names tell of a secret
    (`X-Amz-Signature`, `sig`, `token`, ...). Takes time in proportion to the length, whatever a manifest holds.
    """
    if "://" not in audio:
        return audio
    place, mark, query = audio.partition("?")
    if not (place.startswith(_CONTAINERS) and ":" not in place.partition("://")[2].partition("@")[0]):
        place = _USER.sub("", place)
    return place + mark + "&".join(map(_public_field, query.split("&")))


def _public_field(field: str) -> str:
    name, mark, value = field.partition("=")
    return f"{name}=..." if mark and value and _SECRET_FIELD.search(name) else field
