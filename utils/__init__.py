"""What must be set before the libraries are imported."""

import getpass
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # spares a network call
try:
    getpass.getuser()
except (KeyError, OSError):  # as in `docker run --user 12345`: importing torchvision asks for the user's name
    os.environ["USER"] = str(os.getuid())
