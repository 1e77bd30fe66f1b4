//! The forward pass of FlashAttention-2 in plain Rust: flash_2 of attention.py, for every head.
//!
//!     rustc --edition 2021 -O flash_attention.rs          (1.63 or newer)
//!     ./flash_attention                      an example whose results are known
//!     ./flash_attention H NQ NK D DV SCALE CAUSAL < input > output
//!
//! Input: q [H, NQ, D], k [H, NK, D], v [H, NK, DV], one after the other. Output: O [H, NQ, DV],
//! then LSE [H, NQ], the natural logarithm of sum(exp(S)). All of it is little-endian float32.
//!
//! CAUSAL is 0 or 1. With 1, query i sees the keys 0 .. i + NK - NQ, so that the last query sees
//! all of them; one that sees none has O = 0 and LSE = -inf.

#![allow(non_snake_case)] // O, LSE, Nq, ... are the names of the papers

use std::fmt::Display;
use std::io::{self, BufWriter, Read, Write};

const BLOCK_M: usize = 32; // queries per tile
const BLOCK_N: usize = 32; // keys per tile

/// What the heads have in common.
struct Problem {
    Nq: usize,
    Nk: usize,
    D: usize,
    Dv: usize,
    scale: f32,
    causal: bool,
}

fn keys_seen(p: &Problem, query: usize) -> usize {
    if !p.causal {
        return p.Nk;
    }
    (query + 1 + p.Nk).saturating_sub(p.Nq)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// One row of one tile: the query q [D] meets `columns` keys, k [.., D] and v [.., Dv]. Updates
/// acc [Dv] and returns the new m and l.
fn update(
    p: &Problem,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    columns: usize,
    acc: &mut [f32],
    (m, mut l): (f32, f32),
) -> (f32, f32) {
    let mut S = [0.0; BLOCK_N];
    let mut m_new = m;
    for c in 0..columns {
        S[c] = p.scale * dot(q, &k[c * p.D..][..p.D]);
        if S[c] > m_new {
            m_new = S[c]; // never a NaN: that reaches l and acc through P
        }
    }
    // As long as all scores are -inf, 0 is subtracted: -inf - -inf would be NaN.
    let base = if m_new == f32::NEG_INFINITY {
        0.0
    } else {
        m_new
    };
    let alpha = (m - base).exp(); // what was summed so far is relative to the old maximum
    l *= alpha;
    acc.iter_mut().for_each(|sum| *sum *= alpha);
    for c in 0..columns {
        let P = (S[c] - base).exp();
        l += P;
        for (sum, value) in acc.iter_mut().zip(&v[c * p.Dv..][..p.Dv]) {
            *sum += P * value;
        }
    }
    (m_new, l)
}

/// One head: q [Nq, D], k [Nk, D], v [Nk, Dv] to O [Nq, Dv] and LSE [Nq].
///
/// Queries outside, keys inside: a tile of queries is finished before the next one begins. On a GPU
/// each would be a block of threads, with k[j..] and v[j..] in shared memory; here the rows of the
/// tile find them in the cache. Until the end, O holds the sums that flash_2 calls acc.
fn flash_attention(p: &Problem, q: &[f32], k: &[f32], v: &[f32], O: &mut [f32], LSE: &mut [f32]) {
    for i in (0..p.Nq).step_by(BLOCK_M) {
        let rows = BLOCK_M.min(p.Nq - i);
        let mut m = [f32::NEG_INFINITY; BLOCK_M]; // of each row: its maximum so far
        let mut l = [0.0; BLOCK_M]; // of each row: sum(exp(S - m))
        let acc = &mut O[i * p.Dv..][..rows * p.Dv]; // [rows, Dv]
        acc.fill(0.0);

        let end = keys_seen(p, i + rows - 1); // the last row sees the most
        for j in (0..end).step_by(BLOCK_N) {
            for r in 0..rows {
                // Hidden keys are left out, not given the weight 0: 0 * NaN would spoil O.
                let columns = keys_seen(p, i + r).saturating_sub(j).min(BLOCK_N);
                if columns > 0 {
                    let query = &q[(i + r) * p.D..][..p.D];
                    let acc = &mut acc[r * p.Dv..][..p.Dv];
                    let (k, v) = (&k[j * p.D..], &v[j * p.Dv..]);
                    (m[r], l[r]) = update(p, query, k, v, columns, acc, (m[r], l[r]));
                }
            }
        }

        for r in 0..rows {
            for sum in &mut acc[r * p.Dv..][..p.Dv] {
                // l is 0 if the row saw no key, or only -inf
                *sum = if l[r] == 0.0 { 0.0 } else { *sum / l[r] };
            }
            LSE[i + r] = m[r] + l[r].ln();
        }
    }
}

// ---- The command line ---------------------------------------------------------------------------

const _: () = assert!(usize::BITS == 64, "the product of three sizes must fit");
const SIZE_LIMIT: usize = 1 << 20;
const TOTAL_LIMIT: usize = 1 << 28; // numbers in the input, and in the output
const USAGE: &str = "usage: flash_attention [demo | H NQ NK D DV SCALE CAUSAL < input > output]";

type Outcome<T> = Result<T, (i32, String)>; // the exit code and the message

fn expected<T>(what: impl Display, got: impl Display) -> Outcome<T> {
    Err((2, format!("expected {what}; got {got}\n{USAGE}")))
}

fn failed(error: impl Display) -> (i32, String) {
    (1, error.to_string())
}

/// Key j has the value j and the score ln(j + 1), so that its weight is j + 1: for the i keys that
/// query i sees there are formulas. The 70 keys are three tiles.
fn demo(out: &mut impl Write) -> io::Result<()> {
    let p = Problem {
        Nq: 71,
        Nk: 70,
        D: 1,
        Dv: 1,
        scale: 1.0,
        causal: true,
    };
    let q = [1.0; 71];
    let k: Vec<f32> = (0..p.Nk).map(|j| ((j + 1) as f32).ln()).collect();
    let v: Vec<f32> = (0..p.Nk).map(|j| j as f32).collect();
    let (mut O, mut LSE) = ([0.0; 71], [0.0; 71]);
    flash_attention(&p, &q, &k, &v, &mut O, &mut LSE);
    writeln!(out, "71 queries, 70 keys: query i sees the keys 0 .. i - 1")?;
    writeln!(out, "key j: score ln(j + 1), value j\n")?;
    writeln!(out, " i         O  2(i-1)/3       LSE  ln(i(i+1)/2)")?;
    for i in [0, 1, 2, 3, 32, 33, 70] {
        let (o, o_wanted) = (O[i], 2.0 * i.saturating_sub(1) as f64 / 3.0);
        let (lse, lse_wanted) = (LSE[i], ((i * (i + 1)) as f64 / 2.0).ln());
        writeln!(
            out,
            "{i:2} {o:9.5} {o_wanted:9.5} {lse:9.5} {lse_wanted:13.5}"
        )?;
    }
    out.flush()
}

/// H, and the rest as it is for each head.
fn parse(words: &[String]) -> Outcome<(usize, Problem)> {
    if words.len() != 7 {
        return expected("7 arguments, or demo", words.len());
    }
    let mut sizes = [0; 5];
    for (n, name) in ["H", "NQ", "NK", "D", "DV"].iter().enumerate() {
        let word = &words[n];
        sizes[n] = match word.parse() {
            Ok(size) if size <= SIZE_LIMIT && !word.starts_with('+') => size,
            _ => return expected(format!("{name}, 0 .. {SIZE_LIMIT}"), format!("'{word}'")),
        };
    }
    let scale = words[5].parse().unwrap_or(f32::NAN);
    if !scale.is_finite() {
        return expected("SCALE, a finite number", format!("'{}'", words[5]));
    }
    if words[6] != "0" && words[6] != "1" {
        return expected("CAUSAL, 0 or 1", format!("'{}'", words[6]));
    }
    let ([H, Nq, Nk, D, Dv], causal) = (sizes, words[6] == "1");
    let p = Problem {
        Nq,
        Nk,
        D,
        Dv,
        scale,
        causal,
    };
    Ok((H, p))
}

/// An empty vector that will not need more memory: `vec![0.0; count]` would abort without it.
fn room(count: usize) -> Outcome<Vec<f32>> {
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(count).map_err(failed)?;
    Ok(numbers)
}

fn read(count: usize) -> Outcome<Vec<f32>> {
    let mut numbers = room(count)?;
    let mut stdin = io::stdin().lock();
    let mut bytes = [0; 4];
    while numbers.len() < count && stdin.read_exact(&mut bytes).is_ok() {
        numbers.push(f32::from_le_bytes(bytes));
    }
    let (got, what) = (numbers.len(), format!("{count} float32 numbers on stdin"));
    if got < count {
        return expected(what, got);
    }
    match stdin.bytes().next() {
        Some(Ok(_)) => expected(what, "more"),
        _ => Ok(numbers),
    }
}

fn run(words: &[String]) -> Outcome<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if words.is_empty() || words == ["demo"] {
        return demo(&mut out).map_err(failed);
    }
    let (H, p) = parse(words)?;
    let (q_head, k_head, v_head, O_head) = (p.Nq * p.D, p.Nk * p.D, p.Nk * p.Dv, p.Nq * p.Dv);
    let (input, output) = (H * (q_head + k_head + v_head), H * (O_head + p.Nq));
    if input.max(output) > TOTAL_LIMIT {
        let what = format!("at most {TOTAL_LIMIT} numbers of input and of output");
        return expected(what, format!("{input} and {output}"));
    }
    let given = read(input)?;
    let (q, rest) = given.split_at(H * q_head);
    let (k, v) = rest.split_at(H * k_head);
    let mut made = room(output)?;
    made.resize(output, 0.0);
    let (O, LSE) = made.split_at_mut(H * O_head);
    for h in 0..H {
        let (q, k, v) = (&q[h * q_head..], &k[h * k_head..], &v[h * v_head..]);
        let (O, LSE) = (&mut O[h * O_head..], &mut LSE[h * p.Nq..]);
        flash_attention(&p, q, k, v, O, LSE);
    }
    for number in made {
        out.write_all(&number.to_le_bytes()).map_err(failed)?;
    }
    out.flush().map_err(failed)
}

fn main() {
    let lossy = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let words: Vec<String> = std::env::args_os().skip(1).map(lossy).collect();
    if let Err((code, message)) = run(&words) {
        // eprintln! would panic if stderr cannot be written
        let _ = writeln!(io::stderr(), "flash_attention: {message}");
        std::process::exit(code);
    }
}
