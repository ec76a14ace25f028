"""Every night: how new rows differ from those the champion was trained on."""
