"""`python -m studies`: what workers are started with."""

from hpm.runtime.search_path import leave_out_current_folder

if __name__ == "__main__":
    leave_out_current_folder()
    from studies.cli import main

    main()
