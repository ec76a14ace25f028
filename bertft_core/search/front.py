def choose(results, measure, within):
    raise NotImplementedError
