"""What a notebook or a script calls: rows in memory in, a fitted model with its page and answers out."""

import warnings

# of tqdm, which transformers imports: it misses a package that nothing here needs
warnings.filterwarnings("ignore", message="IProgress not found")
