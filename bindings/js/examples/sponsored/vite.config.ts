import { defineConfig } from 'vite'

export default defineConfig({
  base: './',
  // The package loads its module by `new URL(…, import.meta.url)`, which Vite's pre-bundling would break.
  optimizeDeps: { exclude: ['slackwater'] },
  build: { target: 'es2022' },
})
