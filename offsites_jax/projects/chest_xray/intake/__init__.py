"""Radiographs from files of strangers: DICOM and pictures to grey values, de-identified archives."""
