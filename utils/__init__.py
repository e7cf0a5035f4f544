"""A user id without a name (`docker run --user 12345`) gets one here, as importing torchvision asks for it."""

import getpass
import os

try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())
