"""A small folder of emoji, which the world finds."""

import pytest
from emoji_pictures import write_emoji


@pytest.fixture(scope="session")
def emoji_folder(tmp_path_factory):
    """A folder as `prepare` leaves it, 483 pictures of all splits; named in the variable. Treat it as read-only."""
    folder = write_emoji(tmp_path_factory.mktemp("emoji"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARM_EMOJI_DATA", folder)
        yield folder
