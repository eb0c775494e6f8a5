"""What a server lets its clients do."""

from dataclasses import dataclass

MOST_IMAGES = 16  # to edit, or in a message, as in OpenAI's API
LONGEST_PROMPT = 32_000  # characters, likewise
MOST_MESSAGES = 1_000  # of a conversation, and parts of one of them
MOST_FIELDS = 100  # of a JSON object, or a form


@dataclass(frozen=True)
class Limits:
    """What requests may cost, and reach.

    Args:
        api_keys: one of which a request has to have; none lets everybody in.
        image_urls: whether pictures may be named by http(s) addresses, which this machine then opens: those of the
            public internet alone, also after redirects.
        max_body: bytes of a request.
        max_pixels: of all pictures of a request together, as they are sent, and of its edits, as they come back.
        max_requests: that are read, answered or waiting at a time.
        seconds: that a request may take once it has arrived, waiting included.
        upload_seconds, send_seconds: for a request to arrive, and for a piece of an answer to leave.
    """

    api_keys: tuple[str, ...] = ()
    image_urls: bool = False
    max_body: int = 2**25
    max_pixels: int = 2**25
    max_requests: int = 256
    seconds: float = 600.0
    upload_seconds: float = 60.0
    send_seconds: float = 60.0
