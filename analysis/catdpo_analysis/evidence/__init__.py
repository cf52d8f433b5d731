"""An experiment over objectives: the same data, budget and rule of choice for each, judged by what the models say."""
