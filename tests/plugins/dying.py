"""A user's module that ends the process, or all of its group, some seconds after a config imports it.

ENDS is the seconds and the signal's number, "1.5 9"; ENDS_GROUP sends it to the loader's workers too, as clusters do.
Under torchrun only the last process sends it.
"""

import os
import threading

if "ENDS" in os.environ and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
    seconds, number = os.environ["ENDS"].split()
    end = (os.killpg, os.getpgrp()) if "ENDS_GROUP" in os.environ else (os.kill, os.getpid())
    timer = threading.Timer(float(seconds), end[0], (end[1], int(number)))
    timer.daemon = True
    timer.start()
