"""The emulator as a tool for any kernel: schedules compared, races, mutants; scripts run unchanged."""
