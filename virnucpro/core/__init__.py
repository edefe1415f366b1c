"""What every part of a run needs: settings, devices, file names, the run record, logging."""
