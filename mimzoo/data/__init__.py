"""From the folder of a data set to training crops: datasets, store, crops, augment, in this order."""
