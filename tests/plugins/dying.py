"""A user's module that ends the process without a word, DIES_AFTER seconds after a config imports it.

Under torchrun only the last process dies.
"""

import os
import signal
import threading

if "DIES_AFTER" in os.environ and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
    timer = threading.Timer(float(os.environ["DIES_AFTER"]), os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
