"""How well scores tell abnormal from normal: areas, intervals, thresholds, readers, calibration."""
