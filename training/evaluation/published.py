"""What the paper printed: Mukhopadhyay et al., Diff2Lip, WACV 2024, tables 1 to 4."""

from __future__ import annotations

PAPER = "Diff2Lip (Mukhopadhyay et al., WACV 2024)"

# Table 2: reconstruction FID, SSIM, PSNR, LMD, Sync_c, Sync_d; cross FID, LMD, Sync_c, Sync_d.
RECONSTRUCTION = ("fid", "ssim", "psnr_db", "lmd_px", "sync_c", "sync_d")
CROSS = ("fid", "lmd_px", "sync_c", "sync_d")
TABLE_2 = {
    ("VoxCeleb2", "Wav2Lip"): ((3.26, 0.53, 18.18, 3.16, 9.08, 5.93), (5.11, 4.84, 8.12, 6.74)),
    ("VoxCeleb2", "PC-AVS"): ((4.25, 0.53, 18.26, 3.16, 6.71, 7.80), (10.62, 5.00, 6.96, 7.53)),
    ("VoxCeleb2", "Diff2Lip"): ((2.46, 0.53, 18.09, 3.04, 8.78, 5.93), (4.53, 4.82, 7.62, 6.73)),
    ("LRW", "Wav2Lip"): ((4.23, 0.68, 20.76, 2.15, 8.13, 6.09), (5.19, 3.88, 7.52, 6.56)),
    ("LRW", "PC-AVS"): ((6.80, 0.61, 20.10, 2.29, 6.68, 7.29), (8.48, 4.09, 6.66, 7.27)),
    ("LRW", "Diff2Lip"): ((2.62, 0.67, 20.62, 2.17, 7.41, 6.21), (2.54, 3.93, 6.44, 6.97)),
}

# Tables 1 and 3: losses added one after the other, on 500 clips of VoxCeleb2's test set.
TABLE_1_FIGURES = ("fid", "ssim", "psnr_db", "lmd_px", "sync_c")
TABLE_1 = {
    "Reconstruction": (8.589, 0.523, 18.234, 3.472, 0.633),
    "+ SyncNet": (8.998, 0.526, 18.57, 3.123, 6.336),
    "+ Perceptual": (7.751, 0.526, 18.548, 3.121, 6.53),
    "+ Seq. GAN": (8.213, 0.527, 18.52, 3.101, 7.89),
}
TABLE_3_FIGURES = ("fid", "lmd_px", "sync_c")
TABLE_3 = {
    "Reconstruction": (6.694, 5.313, 0.992),
    "+ SyncNet": (8.784, 4.816, 5.946),
    "+ Perceptual": (5.016, 5.009, 5.955),
    "+ Seq. GAN": (4.592, 4.985, 6.83),
}

# Table 4: the user study's mean opinion scores, 1 to 5, and preference in percent; 15 raters.
TABLE_4 = {
    "Wav2Lip": {"visual": 3.75, "sync": 3.84, "overall": 3.70, "preference": 37.0},
    "PC-AVS": {"visual": 2.71, "sync": 3.34, "overall": 2.91, "preference": 8.33},
    "Diff2Lip": {"visual": 4.16, "sync": 3.86, "overall": 3.91, "preference": 54.67},
}
