"""Whether a challenger is shown to be better than the champion."""
