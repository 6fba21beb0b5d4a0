# Made the images here, one of every format and mode, and what Pillow 13.0.0 makes of them at 8 x 8.
# Usage: python make.py FOLDER
import numpy as np, sys
from PIL import Image
rng=np.random.RandomState(1)
def smooth(h,w,c):
    a=rng.rand(5,6,c)*255
    out=np.stack([np.asarray(Image.fromarray(a[:,:,k].astype(np.uint8)).resize((w,h),Image.BICUBIC)) for k in range(c)],-1)
    return np.clip(out.astype(int)+rng.randint(-25,26,out.shape),0,255).astype(np.uint8)
out=sys.argv[1]
rgb=smooth(23,31,3); rgba=smooth(30,19,4)
L=smooth(21,21,1)[:,:,0]; LA=smooth(17,24,2)
Image.fromarray(rgb).save(f'{out}/rgb.png')
Image.fromarray(rgba).save(f'{out}/rgba.png')
Image.fromarray(L).save(f'{out}/grey.png')
Image.fromarray(LA).save(f'{out}/grey_alpha.png')
g16=(smooth(20,20,1)[:,:,0].astype(np.uint16)*257); Image.fromarray(g16).save(f'{out}/grey16.png')
p=Image.fromarray(rgb).quantize(32); p.save(f'{out}/palette.png',transparency=3)
Image.fromarray(rgb).save(f'{out}/photo.jpg',quality=90)
Image.fromarray(L).save(f'{out}/grey.jpg',quality=90)
Image.fromarray(rgb).save(f'{out}/progressive.jpg',quality=90,progressive=True)
Image.fromarray(rgb).save(f'{out}/rgb.bmp')
a=Image.fromarray(rgb).quantize(64); b=Image.fromarray(255-rgb).quantize(64)
a.save(f'{out}/two_frames.gif',save_all=True,append_images=[b],duration=100)
Image.fromarray(rgba).save(f'{out}/lossless.webp',lossless=True,exact=True)
Image.fromarray(smooth(6,5,3)).save(f'{out}/upscaled.png')
# Inks, with and without Adobe's mark (Pillow takes both for inverted), and an orientation tag, which nobody applies.
Image.fromarray(smooth(25,22,4),'CMYK').save(f'{out}/cmyk.jpg',quality=90)
b=open(f'{out}/cmyk.jpg','rb').read(); i=b.index(b'Adobe')-4
open(f'{out}/cmyk_plain.jpg','wb').write(b[:i]+b[i+2+int.from_bytes(b[i+2:i+4],'big'):])
exif=Image.Exif(); exif[0x112]=6
Image.fromarray(smooth(33,27,3)).save(f'{out}/turned.jpg',quality=90,exif=exif)
Image.fromarray(smooth(131,163,3)).save(f'{out}/large.jpg',quality=80)
import os
S=8
with open(f'{out}/expected.txt','w') as f:
    for n in sorted(os.listdir(out)):
        if n in ('expected.txt','make.py'): continue
        im=Image.open(f'{out}/{n}')
        if n=='grey16.png': im=Image.fromarray((np.asarray(im)//257).astype(np.uint8))
        im=im.convert('RGBA'); bg=Image.new('RGBA',im.size,(255,)*4)
        e=np.asarray(Image.alpha_composite(bg,im).convert('RGB').resize((S,S),Image.BILINEAR)).reshape(-1)
        f.write(n+' '+' '.join(map(str,e))+'\n')
