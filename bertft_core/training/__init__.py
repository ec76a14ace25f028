"""Fine-tuning: schedules, optimizer, loop, and the process that runs fits."""
