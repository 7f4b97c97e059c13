"""Errors of the clients of stores that are none of the system's: who is away, and who does not know us.

Clients are loaded when a URL asks for them, so their errors are known by name.
"""

import sys

_AWAY = (
    ("aiohttp", ("ClientError",)),
    ("azure.core.exceptions", ("ServiceRequestError", "ServiceResponseError")),
    ("botocore.exceptions", ("ConnectionError", "HTTPClientError", "IncompleteReadError")),
    # A server that hands out credentials, such as an instance's metadata service, did not answer.
    ("botocore.exceptions", ("CredentialRetrievalError", "MetadataRetrievalError", "TokenRetrievalError")),
    ("botocore.parsers", ("ResponseParserError",)),
    ("fsspec.exceptions", ("FSTimeoutError",)),
    ("google.auth.exceptions", ("TransportError",)),
)
_UNKNOWN = (
    ("azure.core.exceptions", ("ClientAuthenticationError",)),
    ("botocore.exceptions", ("LoginError", "NoAuthTokenError", "NoCredentialsError", "PartialCredentialsError")),
    ("botocore.exceptions", ("ProfileNotFound", "SSOError", "UnknownCredentialError")),
    ("google.auth.exceptions", ("GoogleAuthError",)),
)


def is_away(error: BaseException) -> bool:
    """Whether a client tells that a server cannot be reached, or broke off; the same call may succeed later."""
    return isinstance(error, _loaded(_AWAY))


def is_unknown(error: BaseException) -> bool:
    """Whether a client finds no credentials, or none that hold."""
    return isinstance(error, _loaded(_UNKNOWN)) and not is_away(error)


def _loaded(named: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[type[BaseException], ...]:
    pairs = [(sys.modules[module], names) for module, names in named if module in sys.modules]
    return tuple(getattr(module, name) for module, names in pairs for name in names if hasattr(module, name))
