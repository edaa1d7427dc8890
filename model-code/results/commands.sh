# The exact commands behind the stored runs, for today's scripts: they give the settings in each run.json. Some 11 hours on
# two cores. UTKFace holds only the photos of the authors' utk_train.csv (datasets/README.md, "The authors' own splits").
set -e

python datasets/train-test-csv/make-csv.py utk --images UTKFace --group_duplicates --test_fraction 0.1 --out csv

# 20-minutes: two cores of an AMD EPYC with avx512_bf16
python model-code/utk-ce.py --recipe fast --amp 1 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ce-seed1
python model-code/utk-ce.py --recipe fast --amp 1 --seed 2 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ce-seed2
python model-code/utk-ce.py --recipe fast --amp 1 --seed 3 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ce-seed3
python model-code/utk-coral.py --recipe fast --amp 1 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-coral-seed1
python model-code/utk-coral.py --recipe fast --amp 1 --seed 2 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-coral-seed2
python model-code/utk-coral.py --recipe fast --amp 1 --seed 3 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-coral-seed3
python model-code/utk-ordinal.py --recipe fast --amp 1 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ordinal-seed1
python model-code/utk-ordinal.py --recipe fast --amp 1 --seed 2 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ordinal-seed2
python model-code/utk-ordinal.py --recipe fast --amp 1 --seed 3 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/20-minutes/utk-ordinal-seed3

# 45-minutes: the same machine
python model-code/utk-ce.py --recipe long --image_size 64 --epochs 38 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes/utk-ce-seed1
python model-code/utk-coral.py --recipe long --image_size 64 --epochs 38 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes/utk-coral-seed1
python model-code/utk-coral.py --recipe long --image_size 64 --epochs 38 --seed 2 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes/utk-coral-seed2
python model-code/utk-coral.py --recipe long --image_size 64 --epochs 38 --seed 3 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes/utk-coral-seed3
python model-code/utk-ordinal.py --recipe long --image_size 64 --epochs 38 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes/utk-ordinal-seed1

# 45-minutes-zen5: two cores of a newer EPYC (Zen 5)
python model-code/utk-coral.py --recipe long --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes-zen5/utk-coral-seed1
python model-code/utk-coral.py --recipe long --seed 2 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes-zen5/utk-coral-seed2
python model-code/utk-coral.py --recipe long --seed 3 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/45-minutes-zen5/utk-coral-seed3

# 150-minutes-zen5: the same machine
python model-code/utk-coral.py --recipe long --augment 2 --epochs 104 --seed 1 --train_csv csv/utk_train.csv --test_csv csv/utk_test.csv --image_path UTKFace --outpath runs/150-minutes-zen5/utk-coral-seed1

# tables and pictures of docs/results.md
python model-code/summarize.py runs/20-minutes/*
python images/draw-recipes.py runs/*/*
