"""`python -m hpm`, e.g. under torchrun."""

from hpm.runtime.search_path import leave_out_current_folder

if __name__ == "__main__":
    leave_out_current_folder()
    from hpm.cli import main

    main()
