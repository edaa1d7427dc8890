// Pictures as Pillow reduces, resizes and transforms them, to the grey value. A picture is
// {width, height, data}, data a Uint8Array of height * width * 3 values in RGB.
"use strict"

export function picture(width, height, data = new Uint8Array(width * height * 3)) {
  return {width, height, data}
}

// The part from (left, top) to (right, bottom), whole pixels inside the picture.
export function crop(image, left, top, right, bottom) {
  const made = picture(right - left, bottom - top), row = 3 * made.width
  for (let y = 0; y < made.height; y++) {
    const from = ((top + y) * image.width + left) * 3
    made.data.set(image.data.subarray(from, from + row), y * row)
  }
  return made
}

// Turned clockwise by so many quarters of a circle.
export function turned(image, quarters) {
  if (!quarters) return image
  const {width, height, data} = image
  const made = quarters == 2 ? picture(width, height) : picture(height, width)
  for (let y = 0, from = 0; y < height; y++)
    for (let x = 0; x < width; x++, from += 3) {
      const [across, down] = [[x, y], [height - 1 - y, x], [width - 1 - x, height - 1 - y],
        [y, width - 1 - x]][quarters]
      const to = (down * made.width + across) * 3
      made.data[to] = data[from]
      made.data[to + 1] = data[from + 1]
      made.data[to + 2] = data[from + 2]
    }
  return made
}

// Means of blocks of (across, down) pixels, those at the right and lower border of what is there.
export function reduce(image, across, down) {
  if (across == 1 && down == 1) return image
  const {width, height, data} = image
  const made = picture(Math.ceil(width / across), Math.ceil(height / down))
  for (let y = 0, to = 0; y < made.height; y++) {
    const bottom = Math.min((y + 1) * down, height)
    for (let x = 0; x < made.width; x++, to += 3) {
      const right = Math.min((x + 1) * across, width)
      let red = 0, green = 0, blue = 0
      for (let row = y * down; row < bottom; row++)
        for (let i = (row * width + x * across) * 3, end = (row * width + right) * 3; i < end; i += 3) {
          red += data[i]
          green += data[i + 1]
          blue += data[i + 2]
        }
      // Pillow multiplies by a fraction of 24 bits, rounded down, in place of a division
      const count = (bottom - y * down) * (right - x * across), half = count >> 1
      const factor = Math.floor(Math.fround(2 ** 32 / (256 * count)))
      made.data[to] = Math.floor((red + half) * factor / 2 ** 24)
      made.data[to + 1] = Math.floor((green + half) * factor / 2 ** 24)
      made.data[to + 2] = Math.floor((blue + half) * factor / 2 ** 24)
    }
  }
  return made
}

// Of each of ``size`` pixels made of those from ``begin`` to ``end``, of ``length`` in all: the
// first one that counts, and the weights, in 22 bits, of it and those after it (a triangle).
function weights(length, begin, end, size) {
  const scale = (end - begin) / size, wide = Math.max(scale, 1)
  return Array.from({length: size}, (_, i) => {
    const centre = begin + (i + .5) * scale
    const first = Math.max(Math.trunc(centre - wide + .5), 0)
    const last = Math.min(Math.trunc(centre + wide + .5), length)
    const shares = []
    for (let x = first; x < last; x++)
      shares.push(Math.max(1 - Math.abs((x - centre + .5) / wide), 0))
    const sum = shares.reduce((a, b) => a + b, 0)
    return {first, shares: shares.map((share) => Math.trunc(.5 + share / sum * 2 ** 22))}
  })
}

const grey = (sum) => Math.min(Math.max((sum + 2 ** 21) >> 22, 0), 255)

// Pillow's bilinear resize to (width, height), of the part from (0, 0) to (right, bottom).
export function resize(image, width, height, right = image.width, bottom = image.height) {
  let {data} = image
  if (width != image.width || right != image.width) {
    const columns = weights(image.width, 0, right, width)
    const made = new Uint8Array(width * image.height * 3)
    for (let y = 0, to = 0; y < image.height; y++)
      for (let x = 0; x < width; x++, to += 3) {
        const {first, shares} = columns[x]
        let red = 0, green = 0, blue = 0
        for (let i = 0, from = (y * image.width + first) * 3; i < shares.length; i++, from += 3) {
          red += data[from] * shares[i]
          green += data[from + 1] * shares[i]
          blue += data[from + 2] * shares[i]
        }
        made[to] = grey(red)
        made[to + 1] = grey(green)
        made[to + 2] = grey(blue)
      }
    data = made
  }
  if (height == image.height && bottom == image.height) return picture(width, height, data)
  const made = picture(width, height), row = 3 * width
  weights(image.height, 0, bottom, height).forEach(({first, shares}, y) => {
    for (let x = 0; x < row; x++) {
      let sum = 0
      for (let i = 0, from = first * row + x; i < shares.length; i++, from += row)
        sum += data[from] * shares[i]
      made.data[y * row + x] = grey(sum)
    }
  })
  return made
}

// As detect.resized(): first reduced where it gets much smaller, then resized.
export function shrunk(image, width, height) {
  const x = Math.max(Math.floor(image.width / (2 * width)), 1)
  const y = Math.max(Math.floor(image.height / (2 * height)), 1)
  return resize(reduce(image, x, y), width, height, image.width / x, image.height / y)
}

// A square of ``side`` pixels: its pixel (x, y) is, by bicubic interpolation, that at
// corner + (x + .5) * step + (y + .5) * i * step; all of these as complex numbers [re, im].
export function transform(image, side, corner, step) {
  const {width, height, data} = image, made = picture(side, side)
  const along = (a, b, c, d, share) => b + share * (c - a + share * (2 * (a - b) + c - d +
    share * (b - a + d - c)))
  for (let y = 0, to = 0; y < side; y++)
    for (let x = 0; x < side; x++, to += 3) {
      const across = step[0] * (x + .5) - step[1] * (y + .5) + corner[0]
      const down = step[1] * (x + .5) + step[0] * (y + .5) + corner[1]
      if (!(across >= 0 && across < width && down >= 0 && down < height)) continue
      const left = Math.floor(across - .5), top = Math.floor(down - .5)
      const [dx, dy] = [across - .5 - left, down - .5 - top]
      const columns = [-1, 0, 1, 2].map((i) => 3 * Math.min(Math.max(left + i, 0), width - 1))
      const rows = [-1, 0, 1, 2].map((i) => 3 * width * Math.min(Math.max(top + i, 0), height - 1))
      for (let band = 0; band < 3; band++) {
        const [a, b, c, d] = rows.map((row) => {
          const at = columns.map((column) => data[row + column + band])
          return along(at[0], at[1], at[2], at[3], dx)
        })
        made.data[to + band] = Math.min(Math.max(along(a, b, c, d, dy), 0), 255)
      }
    }
  return made
}
