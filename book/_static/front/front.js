// Made by tools/front.py.
const FRONT = {
 "weights": {
  "msssim-small": "2421643a993507279d7f536cace217921091a776b113179c0614f801ee2c86b6",
  "msssim-first": "9975ac122cfb03ec860bd06cd5da91d6c8d259f1bac66bd6acbc862b81f53a92",
  "isotropic-small": "912f7c4256a1d6324e483157b117f1b661ae39d9141b768d48413adb1622b8b3"
 },
 "photos": {
  "china": {
   "title": "pagoda",
   "description": "a pagoda with four painted roofs above a lake",
   "width": 640,
   "height": 427,
   "pictures": {
    "original": {
     "file": "china-original.webp",
     "bytes": 819840
    },
    "direct": {
     "file": "china-direct.webp",
     "bytes": 8157,
     "bpp": 0.239,
     "ms_ssim": 0.9437,
     "psnr": 22.31
    },
    "perceptual": {
     "file": "china-perceptual.webp",
     "bytes": 8145,
     "bpp": 0.238,
     "ms_ssim": 0.9222,
     "psnr": 22.17
    },
    "jpeg": {
     "file": "china-jpeg.jpg",
     "bytes": 7558,
     "bpp": 0.221,
     "ms_ssim": 0.8853,
     "psnr": 21.48
    },
    "webp": {
     "file": "china-webp.webp",
     "bytes": 7836,
     "bpp": 0.229,
     "ms_ssim": 0.9137,
     "psnr": 22.64
    },
    "avif": {
     "file": "china-avif.avif",
     "bytes": 7633,
     "bpp": 0.223,
     "ms_ssim": 0.9355,
     "psnr": 23.01
    }
   }
  },
  "coffee": {
   "title": "coffee",
   "description": "a cup of coffee with a spoon on a wooden table",
   "width": 600,
   "height": 400,
   "pictures": {
    "original": {
     "file": "coffee-original.webp",
     "bytes": 720000
    },
    "direct": {
     "file": "coffee-direct.webp",
     "bytes": 6593,
     "bpp": 0.22,
     "ms_ssim": 0.958,
     "psnr": 27.6
    },
    "perceptual": {
     "file": "coffee-perceptual.webp",
     "bytes": 6589,
     "bpp": 0.22,
     "ms_ssim": 0.9211,
     "psnr": 26.51
    },
    "jpeg": {
     "file": "coffee-jpeg.jpg",
     "bytes": 6204,
     "bpp": 0.207,
     "ms_ssim": 0.852,
     "psnr": 25.18
    },
    "webp": {
     "file": "coffee-webp.webp",
     "bytes": 6354,
     "bpp": 0.212,
     "ms_ssim": 0.9139,
     "psnr": 27.05
    },
    "avif": {
     "file": "coffee-avif.avif",
     "bytes": 6313,
     "bpp": 0.21,
     "ms_ssim": 0.9468,
     "psnr": 28.42
    }
   }
  },
  "cat": {
   "title": "cat",
   "description": "the face of a tabby cat",
   "width": 451,
   "height": 300,
   "pictures": {
    "original": {
     "file": "cat-original.webp",
     "bytes": 405900
    },
    "direct": {
     "file": "cat-direct.webp",
     "bytes": 3101,
     "bpp": 0.183,
     "ms_ssim": 0.9635,
     "psnr": 30.53
    },
    "perceptual": {
     "file": "cat-perceptual.webp",
     "bytes": 3093,
     "bpp": 0.183,
     "ms_ssim": 0.9491,
     "psnr": 30.15
    },
    "jpeg": {
     "file": "cat-jpeg.jpg",
     "bytes": 2840,
     "bpp": 0.168,
     "ms_ssim": 0.8811,
     "psnr": 26.68
    },
    "webp": {
     "file": "cat-webp.webp",
     "bytes": 3038,
     "bpp": 0.18,
     "ms_ssim": 0.9302,
     "psnr": 29.53
    },
    "avif": {
     "file": "cat-avif.avif",
     "bytes": 2944,
     "bpp": 0.174,
     "ms_ssim": 0.9511,
     "psnr": 30.51
    }
   }
  }
 },
 "passes": {
  "width": 480,
  "height": 320,
  "groups": [
   16,
   16,
   32,
   64,
   64
  ],
  "frames": [
   {
    "file": "pass-00.webp",
    "bytes": 43,
    "psnr": 11.0
   },
   {
    "file": "pass-01.webp",
    "bytes": 2653,
    "psnr": 23.1
   },
   {
    "file": "pass-02.webp",
    "bytes": 4188,
    "psnr": 25.4
   },
   {
    "file": "pass-03.webp",
    "bytes": 4753,
    "psnr": 25.9
   },
   {
    "file": "pass-04.webp",
    "bytes": 5234,
    "psnr": 26.3
   },
   {
    "file": "pass-05.webp",
    "bytes": 5675,
    "psnr": 26.7
   },
   {
    "file": "pass-06.webp",
    "bytes": 6074,
    "psnr": 27.1
   },
   {
    "file": "pass-07.webp",
    "bytes": 6356,
    "psnr": 27.4
   },
   {
    "file": "pass-08.webp",
    "bytes": 6576,
    "psnr": 27.6
   },
   {
    "file": "pass-09.webp",
    "bytes": 6582,
    "psnr": 27.6
   },
   {
    "file": "pass-10.webp",
    "bytes": 6593,
    "psnr": 27.6
   }
  ]
 },
 "laplacian": [
  {
   "A": 6.0,
   "sigma": 1.78
  },
  {
   "A": 4.64,
   "sigma": 1.6
  },
  {
   "A": 4.01,
   "sigma": 1.69
  },
  {
   "A": 3.68,
   "sigma": 1.64
  },
  {
   "A": 3.2,
   "sigma": 1.48
  }
 ],
 "photo": "data:image/webp;base64,UklGRhYZAABXRUJQVlA4IAoZAACwVgCdASqAAIAAPjEUh0KiIQvFmzwQAYJZgC1Ig1+3dGTMfij8x+UXss2P+9/gTjyjW9hv8P7YPmR6Ov0f7AH65frL10vMT+3v7Ve7r/r/2w91f7Q+wB/Pf9D6Y3suft37B/lzftr8Jf9e/5X7qe17gmHAT7v+QHmf+OfMv4T+4ftR6xf9f4Dekv9h+UnuJ/I/uL+Z/uP7j+xHfr8oP7r1C/yb+ef5X8uPzR+qL5futLNf87+2+wd7f/WP9d/e/3H/vfpd/6npX9i/9j7gP8p/ov+t/NT+2/Of/D8Xn7x/tPYD/oH9l/6f+R/ML6Xv6z/x/5/81Pcf+f/5L/r/5P/P/IT/L/67/v/8V/mP/d/pvnd9nX7g+zp+4xTo1IQbd8qlUgGgUVbiwP++VTjsPxTzF5bUz2MgJVVPEbmQfSP0C/0UlEWv8agUvvRBPn7+7hFsV7WRZbYnPXywlkYPQfppdsm6CWfktiPvNy48jAC/N0CDGZKv/zUj0aOVjCNQ67wGSrPqdD22l908+2UbYVPTCZsyqWWtFdU14AkSaNoovE+sy1LLq4Ib6NcOLuo43oz53/ffUnu+WW6BwFtI7zLa8bgB+7e5ueZG/NfDJduBv/r8XpOe3Y3vlnNFC0p2HQdUrFk3OiJ5Y4OcBJNL4HO9hmmqQbpJPaS7hHoC/LmgrCYAeQ7T0TF654CmDttnhODchrbFuv0+sklLbC5RQaUcLtJAwALV8i7x9HIhtTIQeM9rgQVLlsVmkUB+1Uj3r+jTuQYFsKS50tftUTNwtv6GbSsei+sAuiHqoN3fyfVzvT+j+m5t6YaUmcgEmf9h5PzNTv9tl2O9ThHhnlgk7zRNU1LX+Nss8owoqsZS/t9FVy7HXDGaNXmDwucgW31sXJixlzIjIM4S3kHG8GhL2YrLKsPV0ZJRpHe89YF8kAAA9ofE7A+2IVfziTBkiW9TjrSZe8Uv0ZqBn5kv4jSyv5U6BE4bb9Z4vK7ynwKrVo+9uocv0ejtDWx82F0fYb1DOjudMhSd12gGJCEOFxNlN36WCmwD9V+5XvXh7nZaw+ZphScGIb/DTPk7tqquE4rcMYCZNj4tp7fxIYHRaJCVGqaZJY5iMS11gV3qdJhLsmafibMAV2g3hbnD6F4uNsEP5CcH4/04zJEzmgqJuEXEDQF2sJqrKbylY/DNUgLALSO1kzMEIFGd8JSNvtIkk8Zc/BfUSHTo7lKUKHcLP6eWrystooeF1I/lbVNNXJf7lFKOH0YxMTnwJ/lWD7+zTwbgKDiEVgVP5TMa5+0z84ka3+0sGkke+8CZpNiy8h23YTX0ddudTXKv2E1adsVsv5L5n6WlWEf86gzsfZ7pkBU4GHjgkwFpaV7FMSIezBIxkFVtKBbKs0dzme37Th2Ne9f2Opqrq7XsaNDz2qE6RF+Ybv7BqV5NqYZpkajmPApLs8AcCgKfyDqYLOdwWHmMAey/3N0uIMK2E6rKqhnRwg++ItDc+Pvb7LdMgUbBJu4UbLiBEGIfos2WAd54U+pSDffdM+ikbcxp+vgkrsDGFDAiRK45UibojVAq9dqeOtQt/Tvvcz40zrPE576rUucAvk9Mp9t0cFfuLRtgkGADq6SkVbW7iJT2qV+8Z/o54+hfxB9i3iX57/fq5HB44lv8q30cbdeW/4faOjt5EAU1DC0hWYrCG6sXAGBQcoG5I9Y9AGLMRw1quEhJUWf2CKIVW0dXS/FfL97KzZo9d9OmELoneNcAKk9nRlhL03ASXi/+hUi+bHEuSql9D5+EvdQoyP/zjLfOjselgz+KqPSqz3iiD4ssVJgIPR33BsMl6m7SF2RX+SwaIpZJgpABuuOSwT28qXon89lSeDeL9ljrL3uD+pcpoin2/SkV5JhahSgd4cah77sMiBFYdczchVBfEXFUGmx07l2d92PreI0xCnII6Q07jBW77l/e5B/TIjPrjpOswEb86UwLqrfSoAVIYWn4syxPepcqxMaH7n58coz5hjCANbhUWfgo4rS4wmyfCHAKAT6Lbxh7ZLipPKxvX/cD0OohMqyPE2Cg2mTx7SYcCHI5kq6kvtseYGOyXzJiKVpqcjfHgIoPBgOc8ta5nUj7QyG4bxewttKALW8ZAdKcKnrzCDK2GbPdnXtGlsaZKwDhhd//s32jMhdhb1akz6UFT57O1PxsWwwTtcWrgCogdpGk7RZJQ7Z6Rc2MzZ8yk5bVRNXt1x1kGq0+aRWvpB0aDzmtgNbB3PBVmAQO0d+FdX3XXHKfUQwEKroSn06ERdqNaF1VA782HLF9PHaHHjDQTN3UbkiPIEzITTN7BC3WtrZl1tga2mXCNo/vunJYN0/oSAb9y7v2NQl3mnFK9lBzo3kUjV33aNBxy+9Q4uYm/aaEYYZCNtXU5BEe3u3J++59K3JbbOWN/D+QLhDgR19S1GJtkYf8oyXL8R2mWe6yGSQjt/gO5CMRDeE9pnHOLJyAhu0ER0snlb+z9hVyzTEOO7yatPLQnEIrLUZQePx/I8CGdEBr320EivbkhKZjIe8hrTEfpw5zXk5HTH9T8DKVu4+C6Q/NsAQkzGJiPSPeapFHAlgYz7KisAoQXQFDELCjfuCCdwa6TLzjbA0afGH9vo7KlVqS3ABmehejc5lNkOZ6wQavIlBWQaUPqh3mB4yatUvxkqoH/B3s91k1bvs1+m/wAfdOkAz8E7I4sU89+aT9J4JvzYA2Kly/vsyyzY0dG1UCWAVVM5KDtRpEIIP5B+jmf1CWdMjYcJTNlWRTe1Ao0aSyr5TviZ89KIvYLb8LWOrJ8HChDHm9G91dbAey4n18w9oBuRKc9+Af5MzOiuFPKO/3IflNQOrTWunRedWp9/7NMWpDRcJqNScQxeK76ZHmfYkV4ne4PuH0Y8U/a/uE2zgAx/6h2CtjqzVxefBk1NHvgT0QX82/Cg9sWgGvsp2GR3uuzeqcYh+aa/Xm/Ahpw2M8Ryz9h/sMb764tckOBA0RVe3S/beKZeBb21Cq4Vo5zq/KoJtbiLOsUUbA2sjZUc1csnn2keIpJnlnr8qIKV050cIDeU1yJZA3wXNBHaq75feC7vintXkHGvQtmKP+9yx4tcV7FqRGDpvHKTQ9SfETFd2edwjjKR0VVYkIqtJfDGNjTpd7aUfFLMeH/+lZfgQ8HRlK4HEN+S5rtSUaUihpydn0nUrhjzyrqLu5L9683cJw7TeCwd/WHAjLpyJ5sLx89zVFXCuGsvRkX8tBWl1kBO7EPYiyNfr0maMQsK7+kAJWm6Cg8wz2Z5TNXxXIQfHJ4tHPG5mKdUt0UDD18wzxZwjsGRx9GQajn5vBhWeo0sIpIz14arWPWPp7jy4JjpQgSF6MVtCATYFG337oKOLg9UG1pDhxoxF2+KrU/PhGb7Topw8pRIUOR8wR+WJ8WUkoWpjcmuwgb+oodKCnPjKNzEaCP3yEPi3NO2Ukz1wOfarS+I2G9bdQc383GioeH/MUCPfHs3oY5F6UDoiQcqYxsBcd0+OOC5W2l2Z2ZrePPReYZo8/5WWs14AwdFGyjuFN2NUS4w/bmjlEsePG1kh75OtLeUfSW3Ud9DTua8P46cGefIwohABeAtSCC3Mecq5H4mwOMe35mIeJbhwYfMNj4oBg22IqM9zR6XmMgICoxYdvc7qt1YhVfeBOWG6gUmOGDLk1D2YWgVssM3aRQKUa1I2FcxkC1VNAuidqJH5IPWuu+RcnKEKzQXC7lvQXrb7IH9AEAiAIBGfSI7WYuhI7erY3j9VzZOpIA03ObnDkHPQkL+yoyjhuQmLVsqIRulEXXXnMqc7pi24+rvU4/K4YPAaLJNFFZx2AkS7UYWh/FJb0KgBv9UcAFirWAH7wR1x/UWpz3ZE8TnCL4y9ZDHcHgnGYCjgYfeCObD8qqzgBwM1aT53wXsPIFZUMrTAKEUe7eq5F1TSivb9B5Czt21/7PE1Iyy+Bk3Cd0BEC2gAnySY+9CWD+Lr+F4AHeflYsPbwNOYgl1O2NZAuTP7XuuznsXJj//qOP+ZnTJ9felVDhWakoCAUKNV1E5YMaKTcQi3LKGlhQtP5UgOvX5FETDleacDmkdWFS4dD5v/7ohtcBO+u74XipnGUulQ35M0fdYwnkPxhD2BkBkJSj7a002IQdMbREiKLq+UOSJ4cnrMjbr5WTkrAcVNkSU8Knv4aEhkfpcwNsuwIlcbSBAdPtmwNekz/tdqT+s+/FNFE9V1H8hHdMr6SreJ0JUwWnNZZJ9t8VtB0w+McUf5zFR58UftOWYUhfaDP83EitKdecylxthqyvh5JcZOQvGD7AFJNb4RAIQiVmSxd16O6z4dkw7N9Z4dU73+zcwKIcmlWgbLMHKYQXkZ0rd+QnsKDaOg+8i1CkbgAwB9h+E9lZDsbNLNsWxyFm7kLl4LC7vJppEJxWa3JZ/g01MAWnOqjvVRS4scNsSvDVf9ubKX6beyS5Afek78h3XoyfN6Aau8X0kqYno0JuebKlcJnSQVHnLQ7Uxv/z4gdIPqDhdWLiM7NPfgfpow8ssDidW4t23+013XPql+7308tGzx5SAPbmPap9+MsugRou1grkWN846TOTDkULcu7nxjutVCIR4aquBC+biJwomH9lWWLu05OVL4H7fG5bynU1WsHbe3x+fgReo1mUzP+d9BBhc1/zxlOhDPmNfBYYWSc1Br/Cs14M46pmvzxC/CFi1bYF142AiHZ9JpMiMW6QdaR2sqNVW4PTkQp7xInCS2sdSpjfqtLdYmnFemqHvQpdPdkSwWem1nHu2e0aP9aosyjewL5fI9A/2S1ImdjUXYTjnIRKrL3Y/w2ghW9OgMWdUJQ7t9c9L9NsfsIdFLupKyTjPiWejSixpATq/xYr/bKIdSX3sm2tk0t2bjrmUxBprMNOol2pg8Vl0VbfUN50Lo+99j+oVfrjvem4cXZ2Pk/ocL2Le380u7YmM9KbJfQeDlPiXFTh4V0W3QsGApAzzW3+y0B60eVnRNxDgZ4nxlGcqVm+GVIIiifSPLpbzDii74kRSR9JsprJyG+jhkpWIZC681tdsWWOOQwx97Xl3140Sr6PDy95ajmesx4GwbZtpnKkD8EM6wFxGMONpSD6KnRjXIxsVQvNLwI0SGD3ypCkmv3P2ad4erZa8MFMc+JPJx+Zv9iJcj9YlivQLYU8qrK/e70OX0Ot3DZ8ETxk3xoV6oRhWl2l80DbmoPqmW7bIr0pmDPv7cnH4kxPDxB1ovnRpDboWNjq+JzdN1yVpongrCXXEixot4dDCMg4rNoaCrpcBDBfuXFfWLCyoK6vcXmjZEyrAjon5s+ywvdh/W3gi+cZGwzS1cAPhZH+TGWSjI7/OtjEM/WtsF285hLNt+GN+bMXmdVKbn2FWoEbh2gPH9uOAVCBgAAd6ZHEVKzWrrpSP2hFJbtNuG97axUXq1tt5F17W5Mr/ce2pk+XJK8ow8WXPlARFMa5UFPCarXW3oamHmnERWZpJamXS6H2lrtfqA3wR9Iro1zeWMyqp+4v8dSfjkPKpCUs2DnvHfKRC8ve25iFRL4RsE75g/P6Lc2yBnw1ySQ7Sl/oiyV5CdQ2eYbdiETru002EiqQs+eiiN6hBiOigZF65bSOnDVFOGhQ8FKSZxt3GmtMbxqPIqyAFYFb1kscz92Ht6PBuqNGCcI2jGxJjtcmzgmk+3m6/5gOnbnpSWTP+eEeAfk4aY+NBr9oaC7QJAFE8UE972/nJLyNCs5sSCCFsQ8thMusdhtPvAm/wZyh1Lu3s8vhY5erXA04q6D7Op+CtJ0GcJgF2CBN55AxcGg/UXw/rwlMirLYH7Hs3BFDIhqhhC8ptjo4KS0UixS2jvH1v3rphRaJ55uDYEepggD6PsFoADia+e7TN11/jtdP77DItHOiw0eCuJ21hSnnkWioOf1V/I7HErzhE5754INHeCGy/DQ7o20GO1vl6B0/bAGngL+20GIGsMMLEPzGZUJ7FPt5Pmx7oY7P9zSAudYEnMaHCS4/QzhEZzkMWaGOPK2sWr6MLFD2fV6bV/F4vNDGBb+lduBlNek0rwcldkS6n/fH36KizBQVBeNmBea8VHAPotjhW3CQMmpulilh/Nea74eh0eu/abhA76YMhsVsKKbm4gf/S4X6OX8L75+3TEGSIH2iG9FRB0ZwFgArRzQj5tRtXs5abBA14qrnDbV+NNHt2AFO+zP53Xor1Fumrv8lo9mILXourtdevIU06bxcwQvZ+d0KgaKNeXBooZBUdFqSLw9dZR3oTFgeQeGHbssgVFiHWrMm75DNjDMQKmCH1bq+EJon8OQcXVbl/hp8S4ZmSoSArqnOuU0eYRwXhKONdFH23dbu9k26Z1FJiuHm9+bSya95Pwv7M/vzJ0tlVyTo30Q0XWDhnJQ5qXo9y9/KHINXv8/6rCIiBkBi9J/SUEevVBLvHHAOXjSgNEf7a9JmEP84iYHBN8W4TJUz0KoLEpWtJrZAOcC5ymn++fBbqBwFbQCSEzXGAyF3Ti+HckGzaJZOWhCl3SGOQN/eP3S+CmYOvpFMkUrzg4AsyVB5CasY1vS3CnKOYtVzW3Hm3oeDUdqawNnrOvoJNb7P5lwOhM392sFgRzvlb2r6jBTcZtJL1YF6cvdHHoySWjxtzBJglNlAcKyVZ3lrbCINOwe1xKW5+9iNZJMv4ef3d2GwiaGbDi4E+LFnzDJg0F4c63Ur16E8BX5oz9i8Ez9Yc5IlFgzL/Fn6HSiTFF6YXTgcLLXGU3FrAuVAZp3dZuha5+qKUzQblLYThipXejoak7Ow8AbtU6EsWTt/f2kqoDK92bGr5xUGv4mZeXAzzNzqbU9X1zSc8Mq57g4m1a8rjatJtxrDDXX2KqsBM+G+AKR3IFKxNxJYDS/YmLqzl7bmMXcEoiC+6OfWUHoM2HCb8MX/YxX4MdvczrBU78xy8yWWbD46o/k/RQGgIw/Z4yPU6odQ/jrlmrP316uYzb4k0pz8+6aGr6msh/jVaVLrbxOV+XLz1Iis3Vvo06Dt0JZaNSp9wzXaCnTxc+Ila4ishci3cH3Uaq/PkDTJdyjNxcjR1ZCZUhq1r/60YL+D/6pHaN6/eu4NK2YBzQTqd+ugGpLe2yXDxZIz/qI+ITqMQdFcCnjm0I64wvAIMvbBeB9gMesQQ0o+qK5suL2dZS8mKwaJFbe3Y3JG8yWqfKWMDAnQGvh47phvhCJK5FJ9h+t3PNPVWwJimvXmkr3di/xypiKXknp9t1A1VlU4RNhLYyGo3bG67sb70uLZoQVcdlXwVP0vtbH++kf/7ddY+J7Xs4ofucr7v3q2csRs5D+y7/EXZRGlW+2Yb9+K24T0a4PR2FbVdkAZdRTJyox2+jWvnW9wILZH2KwBlK7uWe+iaLmzMYFAnJSjzGcT/dqj/OP2Ro9ix0hm1L1KLG7zHgpAWRzJWXd4ws4i5zINRQjlNkRLnwc6bPfEAiwmF7lqsgogh4D8WRqNiwcrKXZydN/1J9ONiRWemKZ6nQcbE+wxiNB1mHBaojrG1IB15aOGHE17ILIypTSgfTIYGjm7u4ZDhpS4xVN5JZiXuZFbuYcQ0rs67AIfcQlHpJdiLU49jyyPUpk4ZfGxDnT0K0GfrkTudqcnJRaLB+vf2et8Xu4ewgS7mfF+pOgozfCamXx2mOxWjIiqr61BwV0Mq85Ih7eVTpep95/WXmEC+557y4+4+O3sfkziBPH1ylWwPDcaM6sVZ19b9EMTmlYSYiPwAPMZi3kfVSNUTkLlfG0ItHmVcO3/TLk3mVXMZG+eOikWOPwxVMeQ0yn+oFuA9uNwa/AbZ8mnM4tEVBG3bBZCzGIPbPcRkv4urbMgP6Lk4doBGpgB2m47/dZ7qePV5YIn7Oi8GYAx1GmVcCPiPmSufUDeOUy0RP+AufKGwjC5QKkMk7F/5UcHIBhpnKme23oxEF/e9vyEwL/eOVmHAcg46ml/HCdYHnP2TUV5OWolXKT8Zop1ChxFkLjbo7/igfDrE/hojL4eHEmSlEM3viPaSL+v1z19yuoLAxPs49M0a29q8g+PNonYp2/tv+YOb0+1s7DAdshRot/Dlowfl9qAwXkBmNP2dlmt2zqh8zNuHobFZ109Qm1MDswWotI+bYIsiEtMTMbQkZgoeA6Wszl3hvtehrTLLsICaZ4ACy4KDxKgydITEG4KtAAZO4PaIz+xs+xhLbQvFO97/69Kfz2TlrMC1v/gYl1jKUsKLjg71xUPTYmm+4zd0gK7pvuwAp25zrRuouYqLR8+8/MGMC01nM+DboIBptcD/83o+Hh3QMn1uoZi0ftpZRoKNDhEgMHRRmijrgPvbqeorqp8fE5LEKzcubebuPJwF7RUC4YADTADlQ5oDIywfIqDVAbXscM8OGK4gLzFzO7rAvbm6CPotFO9iKJhNe2FlnKo43b/axh+S2gLsMe8l6VKc+OgL/hdF6rQhsv3q36E8a/ArEuHL/WrJOpr9R4dMjNNHnA/mxbUyrvDuyL8y3bXSUuPXWH0UnvypuwmtYkvyJXmWpEgYoQ9NhMPU204lgEKwMAAA=="
};
